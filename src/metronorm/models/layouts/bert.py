"""BERT as an encoder: LayerNorm after each sub-layer, GELU, learned positions, kinds of tokens.

Nearly all encoders of sentences are BERTs. The pooler and the heads of pretraining are left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError
from metronorm.models.config import EncoderConfig
from metronorm.models.layouts.layout import activation_name, rows_of_several, same

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from metronorm.models.layouts.layout import Rule

_DEFAULTS = {
    "model_type": None,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "type_vocab_size": 2,
}
_LEFT_OUT = re.compile(r"^(cls|classifier|pooler)\.|^embeddings\.position_ids$")
_FIRST_NAMES = {"gamma": "weight", "beta": "bias"}  # of LayerNorm in the first BERTs


def read_config(fields: Mapping[str, Any]) -> EncoderConfig:
    """The config of a BERT, from its config.json.

    Raises:
        ConfigError: it has a field that our encoder cannot express, which the message names.
    """
    given = _DEFAULTS | dict(fields)
    given["hidden_act"] = activation_name(str(given["hidden_act"]))
    needed = {
        "model_type": ("bert",),
        "hidden_act": ("gelu", "gelu_new"),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "attention_probs_dropout_prob": (given["hidden_dropout_prob"],),
    }
    for name, choices in needed.items():
        if given[name] not in choices:
            raise ConfigError(
                f"an encoder needs {name}={' or '.join(map(repr, choices))} in config.json",
                got=repr(given[name]),
            )
    try:
        return EncoderConfig(
            vocab_size=given["vocab_size"],
            context=given["max_position_embeddings"],
            layers=given["num_hidden_layers"],
            heads=given["num_attention_heads"],
            width=given["hidden_size"],
            hidden=given["intermediate_size"],
            norm_place="after",
            mlp="gelu" if given["hidden_act"] == "gelu" else "gelu_tanh",
            types=given["type_vocab_size"],
            eps=given["layer_norm_eps"],
            dropout=given["hidden_dropout_prob"],
        )
    except KeyError as error:
        raise ConfigError(
            "a config.json of the layout bert must have all sizes", got=f"no {error}"
        ) from None


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names of `BertModel`, without those of heads, whatever was saved."""
    found = {}
    for name, tensor in tensors.items():
        first, _, last = name.removeprefix("bert.").rpartition(".")
        full = f"{first}.{_FIRST_NAMES.get(last, last)}"
        if not _LEFT_OUT.search(full):
            found[full] = tensor
    return found


def rules(config: EncoderConfig) -> Iterator[Rule]:
    """How a BERT keeps each of our tensors."""
    yield same("tokens.weight", "embeddings.word_embeddings.weight")
    yield same("positions.weight", "embeddings.position_embeddings.weight")
    if config.types:
        yield same("types.weight", "embeddings.token_type_embeddings.weight")
    pairs = [("norm", "embeddings.LayerNorm")]
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"encoder.layer.{layer}"
        pairs += [
            (f"{ours}.attention.out", f"{theirs}.attention.output.dense"),
            (f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm"),
            (f"{ours}.mlp.up", f"{theirs}.intermediate.dense"),
            (f"{ours}.mlp.out", f"{theirs}.output.dense"),
            (f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm"),
        ]
        own = f"{theirs}.attention.self"
        for kind in ("weight", "bias"):
            parts = [f"{own}.{name}.{kind}" for name in ("query", "key", "value")]
            yield rows_of_several(f"{ours}.attention.qkv.{kind}", parts, [config.width] * 3)
    for ours, theirs in pairs:
        for kind in ("weight", "bias"):
            yield same(f"{ours}.{kind}", f"{theirs}.{kind}")
