"""Small pretrained models on the disk: in Hugging Face layout, and as GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import tokenizers
import transformers

from tests.finetune.tiny import build

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
)
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def tokenizer(words: int = 60) -> Any:
    """Of words: w3, w4, ...; with a chat template."""
    special = {"<unk>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    vocabulary = special | {f"w{number}": number for number in range(3, words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )


def save(directory: Path, name: str, **changes: Any) -> Any:
    """Save a tiny model of an architecture and a tokenizer; returns the model."""
    model = build(name).eval()
    for field, value in changes.items():
        setattr(model.config, field, value)
    model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return model


def save_gguf(path: Path, name: str = "llama") -> Any:
    """Write a tiny Llama as GGUF, with a byte-level tokenizer; returns the model."""
    model = build(name).eval()
    config = model.config
    writer = gguf.GGUFWriter(path, name)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS, "ab", "Ġ"]
    tokens += [f"<{number}>" for number in range(len(tokens), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for theirs, values in _gguf_tensors(model).items():
        writer.add_tensor(theirs, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _gguf_tensors(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    config = model.config
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def pairs_together(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
        """GGUF has the two elements that are rotated together side by side."""
        halves = weight.reshape(heads, 2, -1, weight.shape[1])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))

    found = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    parts = {
        "attn_norm": "input_layernorm",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(config.num_hidden_layers):
        own = f"model.layers.{layer}"
        for theirs, ours in parts.items():
            found[f"blk.{layer}.{theirs}.weight"] = weights[f"{own}.{ours}.weight"]
        for part, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            found[f"blk.{layer}.attn_{part}.weight"] = pairs_together(
                weights[f"{own}.self_attn.{part}_proj.weight"], heads
            )
    return found
