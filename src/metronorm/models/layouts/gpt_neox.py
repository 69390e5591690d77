"""GPT-NeoX without parallel residual: LayerNorm, GELU, rotary positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.models.config import GPTConfig
from metronorm.models.gpt import ROTARY_BASE
from metronorm.models.layouts.layout import (
    ACTIVATIONS,
    Layout,
    activation_name,
    linear_rules,
    norm_rules,
    qkv_rows,
    rope_of,
    same,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from metronorm.models.layouts.layout import Fields, Rule


def _fields(config: GPTConfig) -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_act": ACTIVATIONS.get(config.mlp, "gelu"),
        "layer_norm_eps": 1e-5,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.dropout,
        "attention_bias": True,
        "tie_word_embeddings": config.tie_embeddings,
        "use_parallel_residual": False,
        "rotary_pct": 1.0,  # these two for transformers below 5
        "rotary_emb_base": ROTARY_BASE,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": ROTARY_BASE,
            "partial_rotary_factor": 1.0,
        },
    }


def _complete(given: Mapping[str, Any]) -> Fields:
    fields: Fields = {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
    } | dict(given)
    rope = rope_of(fields)
    fields["rope_theta"] = rope.get("rope_theta", fields.pop("rotary_emb_base", ROTARY_BASE))
    fields["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    fields["rotary_pct"] = rope.get("partial_rotary_factor", fields.pop("rotary_pct", 0.25))
    fields.pop("rotary_emb_base", None)
    fields["hidden_act"] = activation_name(fields["hidden_act"])
    return fields


def _config(fields: Mapping[str, Any]) -> GPTConfig:
    return GPTConfig(
        vocab_size=fields["vocab_size"],
        context=fields["max_position_embeddings"],
        layers=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        width=fields["hidden_size"],
        norm="layer",
        mlp="gelu_tanh" if fields["hidden_act"] == "gelu_new" else "gelu",
        positions="rotary",
        tie_embeddings=fields["tie_word_embeddings"],
        dropout=fields["hidden_dropout"],
        bias=True,
    )


def _rules(config: GPTConfig) -> Iterator[Rule]:
    yield same("tokens.weight", "gpt_neox.embed_in.weight")
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
        yield from norm_rules(f"{ours}.attention_norm", f"{theirs}.input_layernorm", config)
        for rule in linear_rules(
            f"{ours}.attention.qkv", f"{theirs}.attention.query_key_value", qkv_rows(config)
        ):
            yield rule._replace(split=_by_head(config, to=True), join=_by_head(config, to=False))
        yield from linear_rules(f"{ours}.attention.out", f"{theirs}.attention.dense", config.width)
        yield from norm_rules(f"{ours}.mlp_norm", f"{theirs}.post_attention_layernorm", config)
        yield from linear_rules(f"{ours}.mlp.up", f"{theirs}.mlp.dense_h_to_4h", config.hidden)
        yield from linear_rules(f"{ours}.mlp.out", f"{theirs}.mlp.dense_4h_to_h", config.width)
    yield from norm_rules("norm", "gpt_neox.final_layer_norm", config)
    if not config.tie_embeddings:
        yield same("head.weight", "embed_out.weight")


def _by_head(config: GPTConfig, *, to: bool) -> Callable[[Any], Any]:
    """Rows of queries, keys and values, each with all heads, to rows of heads, and back."""
    shape = (3, config.heads) if to else (config.heads, 3)

    def rows(tensor: Tensor) -> Tensor:
        grouped: Tensor = tensor.unflatten(0, (*shape, config.head_size))
        return grouped.transpose(0, 1).flatten(0, 2)

    return (lambda tensor: (rows(tensor),)) if to else (lambda parts: rows(parts[0]))


LAYOUT = Layout(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    fields=_fields,
    config=_config,
    complete=_complete,
    rules=_rules,
    has_biases=True,
)
