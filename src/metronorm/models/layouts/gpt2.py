"""GPT-2: LayerNorm, GELU, learned positions; it keeps linear weights the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.models.config import GPTConfig
from metronorm.models.layouts.layout import (
    ACTIVATIONS,
    Layout,
    activation_name,
    linear_rules,
    norm_rules,
    qkv_rows,
    same,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from metronorm.models.layouts.layout import Fields, Rule


def _fields(config: GPTConfig) -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": 4 * config.width,
        "activation_function": ACTIVATIONS.get(config.mlp, "gelu"),
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }


def _complete(given: Mapping[str, Any]) -> Fields:
    fields: Fields = {
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    } | dict(given)
    if fields["n_inner"] is None:
        fields["n_inner"] = 4 * fields.get("n_embd", 0)
    fields["activation_function"] = activation_name(fields["activation_function"])
    return fields


def _config(fields: Mapping[str, Any]) -> GPTConfig:
    return GPTConfig(
        vocab_size=fields["vocab_size"],
        context=fields["n_positions"],
        layers=fields["n_layer"],
        heads=fields["n_head"],
        width=fields["n_embd"],
        norm="layer",
        mlp="gelu_tanh" if fields["activation_function"] == "gelu_new" else "gelu",
        positions="learned",
        tie_embeddings=fields["tie_word_embeddings"],
        dropout=fields["resid_pdrop"],
        bias=True,
    )


def _rules(config: GPTConfig) -> Iterator[Rule]:
    yield same("tokens.weight", "transformer.wte.weight")
    yield same("positions.weight", "transformer.wpe.weight")
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        yield from norm_rules(f"{ours}.attention_norm", f"{theirs}.ln_1", config)
        yield from linear_rules(
            f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", qkv_rows(config), turn=True
        )
        yield from linear_rules(
            f"{ours}.attention.out", f"{theirs}.attn.c_proj", config.width, turn=True
        )
        yield from norm_rules(f"{ours}.mlp_norm", f"{theirs}.ln_2", config)
        yield from linear_rules(f"{ours}.mlp.up", f"{theirs}.mlp.c_fc", config.hidden, turn=True)
        yield from linear_rules(f"{ours}.mlp.out", f"{theirs}.mlp.c_proj", config.width, turn=True)
    yield from norm_rules("norm", "transformer.ln_f", config)
    if not config.tie_embeddings:
        yield same("head.weight", "lm_head.weight")


LAYOUT = Layout(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    fields=_fields,
    config=_config,
    complete=_complete,
    rules=_rules,
    has_biases=True,
)
