"""Models of every architecture that are made from a config, with tiny random weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
CAUSAL: dict[str, Any] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            **GROUPED
            | {"head_dim": 16, "tie_word_embeddings": False}
            | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
        )
    ),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **GROUPED | {"head_dim": 16, "num_key_value_heads": 1},
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=20,
            final_logit_softcapping=3.0,
        )
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=60,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**SIZES, rotary_pct=0.5, tie_word_embeddings=False)
    ),
}
CLASSIFIER: dict[str, Any] = {
    "bert": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(
            **SIZES | {"pad_token_id": 0},
            num_labels=3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ),
    "modernbert": lambda: transformers.ModernBertForSequenceClassification(
        transformers.ModernBertConfig(
            **SIZES | {"pad_token_id": 0},
            local_attention=6,
            layer_types=["sliding_attention", "full_attention"],
            classifier_pooling="mean",
            num_labels=3,
        )
    ),
}


def build(name: str, *, seed: int = 0, exact: bool = False) -> Any:
    """A model in training mode, with weights large enough that every part of it matters.

    Args:
        name: of the architecture.
        seed: of the weights.
        exact: in float64; so are its norms, which compute in float32 otherwise.
    """
    torch.manual_seed(seed)
    model = (CAUSAL | CLASSIFIER)[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + 0.5 * (parameter.dim() == 1))
    if exact:
        model = model.double()
        for place, module in list(model.named_modules()):
            if type(module).__name__.endswith("RMSNorm"):
                model.set_submodule(place, ExactNorm(module))
    return model.train()


def twin(model: Any) -> Any:
    """A copy with the same weights, and the attention function of its own library."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("sdpa")
    return other


class ExactNorm(nn.Module):
    """The RMS norm of a model in the dtype of its input."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        self.offset = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return scaled * (self.offset + self.weight)


def packed(lengths: list[int], seed: int = 0) -> dict[str, Any]:
    """A causal batch of random documents."""
    chance = np.random.default_rng(seed)
    ids = [chance.integers(3, 60, length + 1) for length in lengths]
    weights = [chance.integers(0, 3, length) * 0.5 for length in lengths]
    return {
        "ids": np.concatenate([each[:-1] for each in ids]),
        "positions": np.concatenate([np.arange(length) for length in lengths]),
        "targets": np.concatenate([each[1:] for each in ids]),
        "weights": np.concatenate(weights).astype(np.float32),
        "lengths": np.array(lengths),
    }


def one_by_one(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The documents of a batch, each a batch of its own."""
    ends = np.cumsum(batch["lengths"])
    return [
        {
            name: values[end - length : end] if name != "lengths" else values[number : number + 1]
            for name, values in batch.items()
        }
        for number, (end, length) in enumerate(zip(ends, batch["lengths"], strict=True))
    ]


def padded(rows: int = 5, seed: int = 0) -> dict[str, Any]:
    """A classifier's batch of random texts of 2 to 9 tokens."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(2, 10, rows)
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    return {
        "ids": chance.integers(3, 60, mask.shape) * mask,
        "mask": mask,
        "labels": chance.integers(0, 3, rows),
    }
