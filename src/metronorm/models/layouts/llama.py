"""Llama: RMSNorm, SwiGLU, rotary positions, grouped keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.models.config import GPTConfig
from metronorm.models.gpt import ROTARY_BASE
from metronorm.models.layouts.layout import Layout, rope_of, rows_of_several, same

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from metronorm.models.layouts.layout import Fields, Rule


def _fields(config: GPTConfig) -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_dropout": config.dropout,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_theta": ROTARY_BASE,  # for transformers below 5
        "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE},
    }


def _complete(given: Mapping[str, Any]) -> Fields:
    fields: Fields = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_dropout": 0.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "rope_theta": ROTARY_BASE,
    } | dict(given)
    heads = fields.get("num_attention_heads")
    if fields.get("head_dim") is None and heads:
        fields["head_dim"] = fields.get("hidden_size", 0) // heads
    if fields.get("num_key_value_heads") is None:
        fields["num_key_value_heads"] = heads
    rope = rope_of(fields)
    fields["rope_theta"] = rope.get("rope_theta", fields["rope_theta"])
    fields["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    return fields


def _config(fields: Mapping[str, Any]) -> GPTConfig:
    heads, key_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
    return GPTConfig(
        vocab_size=fields["vocab_size"],
        context=fields["max_position_embeddings"],
        layers=fields["num_hidden_layers"],
        heads=heads,
        kv_heads=None if key_heads == heads else key_heads,
        width=fields["hidden_size"],
        norm="rms",
        mlp="swiglu",
        positions="rotary",
        tie_embeddings=fields["tie_word_embeddings"],
        dropout=fields["attention_dropout"],
        bias=fields["attention_bias"],
    )


def _rules(config: GPTConfig) -> Iterator[Rule]:
    keys = config.key_heads * config.head_size
    sizes = (config.width, keys, keys)
    yield same("tokens.weight", "model.embed_tokens.weight")
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield same(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight")
        yield same(f"{ours}.mlp_norm.weight", f"{theirs}.post_attention_layernorm.weight")
        for end in ("weight", "bias") if config.bias else ("weight",):
            qkv = [f"{theirs}.self_attn.{part}_proj.{end}" for part in "qkv"]
            yield rows_of_several(f"{ours}.attention.qkv.{end}", qkv, sizes)
            yield same(f"{ours}.attention.out.{end}", f"{theirs}.self_attn.o_proj.{end}")
            up = [f"{theirs}.mlp.{part}_proj.{end}" for part in ("gate", "up")]
            yield rows_of_several(f"{ours}.mlp.up.{end}", up, (config.hidden, config.hidden))
            yield same(f"{ours}.mlp.out.{end}", f"{theirs}.mlp.down_proj.{end}")
    yield same("norm.weight", "model.norm.weight")
    if not config.tie_embeddings:
        yield same("head.weight", "lm_head.weight")


LAYOUT = Layout(
    name="llama",
    architecture="LlamaForCausalLM",
    fields=_fields,
    config=_config,
    complete=_complete,
    rules=_rules,
    has_biases=False,
)
