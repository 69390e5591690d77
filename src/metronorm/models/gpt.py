"""A GPT in one file: pre-norm decoder, learned or rotary positions, grouped-query attention.

Sizes and presets are in `config.py`, sampling in `sampling.py`. Read from the bottom: `GPT`, then
`Block`, then its two sub-layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.norm import AddLayerNorm, AddRMSNorm

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.models.config import GPTConfig

    Turn = tuple[Tensor, Tensor] | None  # cosines and sines of rotary positions

ROTARY_BASE = 10_000.0
EXPLICIT_LENGTH = 384


class KVCache:
    """Keys and values of the tokens seen so far, in tensors allocated once.

    Device and dtype are the model's, or autocast's dtype.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (config.layers, batch, config.key_heads, config.context, config.head_size)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new part and return all of it; `GPT` then raises the length, once."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Causal self-attention, queries in groups that share keys and values."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.key_heads = config.heads, config.key_heads
        self.head_size, self.dropout = config.head_size, config.dropout
        together = (config.heads + 2 * config.key_heads) * config.head_size
        self.qkv = nn.Linear(config.width, together, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(self, x: Tensor, turn: Turn, cache: KVCache | None) -> Tensor:
        """Mix x, (batch, time, width), over time; `turn` is the rotary tables of its positions."""
        batch, time, width = x.shape
        turned = self.heads + self.key_heads
        qkv = self.qkv(x).view(batch, time, turned + self.key_heads, self.head_size)
        qk, values = qkv.split((turned, self.key_heads), dim=2)
        if turn is not None:
            qk = rotate(qk, *turn)
        # (batch, heads or key heads, time, head size)
        queries, keys = qk.transpose(1, 2).split((self.heads, self.key_heads), dim=1)
        values = values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
        mixed = attend(queries, keys, values, dropout=self.dropout if self.training else 0.0)
        return cast("Tensor", self.out(mixed.transpose(1, 2).reshape(batch, time, width)))


class Mlp(nn.Module):
    """Feed-forward sub-layer: GELU, or SwiGLU (Shazeer, 2020, arXiv:2002.05202)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        self.approximate = "tanh" if config.mlp == "gelu_tanh" else "none"
        self.up = nn.Linear(config.width, config.hidden * (1 + self.gated), bias=config.bias)
        self.out = nn.Linear(config.hidden, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x, (batch, time, width), position by position."""
        hidden = self.up(x)  # (batch, time, hidden), twice that where gated
        if self.gated:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * value
        else:
            hidden = F.gelu(hidden, approximate=self.approximate)
        return cast("Tensor", self.out(hidden))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Every sub-layer's output is added to the residual stream by the norm that comes next, in one
    pass; the last one's by the next block.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)

    def forward(
        self, x: Tensor, stream: Tensor | None, turn: Turn, cache: KVCache | None
    ) -> tuple[Tensor, Tensor]:
        """This block's last output, yet to be added, and the residual stream without it.

        `x` is yet to be added to `stream`, both (batch, time, width); others as `Attention`.
        """
        normed, stream = self.attention_norm(x, stream)
        normed, stream = self.mlp_norm(self.attention(normed, turn, cache), stream)
        return self.mlp(normed), stream


class GPT(nn.Module):
    """Decoder-only transformer.

    Linear and embedding weights start at N(0, 0.02), those that write into the residual stream
    at N(0, 0.02 / sqrt(2 * layers)), biases at 0: GPT-2 (Radford et al., 2019).
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions: nn.Embedding | None = None
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context, config.width)
        else:
            cosines, sines = rotary_tables(config.context, config.head_size)
            self.register_buffer("cosines", cosines, persistent=False)
            self.register_buffer("sines", sines, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config)
        self.head: nn.Linear | None = None
        if not config.tie_embeddings:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights from torch's default generator."""
        residual_std = 0.02 / (2 * self.config.layers) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=residual_std if name.endswith(".out") else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, AddLayerNorm | AddRMSNorm):
                module.reset_parameters()

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, *, cache: KVCache | None = None
    ) -> Tensor:
        """Logits, or the summed loss where targets are given.

        Args:
            tokens: token ids, (batch, time), time at most `context`.
            targets: the token after each, (batch, time); -100 where it must not count.
            cache: of the tokens before these; theirs are added to it.

        Returns:
            Logits, (batch, time, vocab_size); with targets, the cross entropy in nats *summed*
            over them, a float32 scalar: divide by the number of targets of the whole window.

        Raises:
            ConfigError: more tokens than the context holds.
        """
        logits = self.logits(self.features(tokens, cache=cache))
        if targets is None:
            return logits
        return F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="sum", ignore_index=-100
        )

    def features(self, tokens: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """The residual stream after the last norm, (batch, time, width); arguments as `forward`."""
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.config.context:
            raise ConfigError(
                f"a sequence must fit the model's context of {self.config.context} tokens",
                got=f"{end} tokens" + (f", {start} of them in the cache" if start else ""),
                fix="crop it, or train with a longer context",
            )
        x = self.tokens(tokens)  # (batch, time, width)
        turn = None
        if self.positions is not None:
            x = x + self.positions.weight[start:end]
        else:
            turn = self.cosines[start:end], self.sines[start:end]
        x = self.dropout(x)
        stream = None
        for block in self.blocks:
            x, stream = block(x, stream, turn, cache)
        if cache is not None:
            cache.length = end
        return cast("Tensor", self.norm(x, stream)[0])

    def logits(self, features: Tensor) -> Tensor:
        """Scores of every token of the vocabulary, (..., vocab_size), from `features`."""
        return F.linear(features, (self.head or self.tokens).weight)


def make_norm(config: GPTConfig) -> AddLayerNorm | AddRMSNorm:
    """The normalization the config asks for, with the residual add and its dropout before it."""
    if config.norm == "rms":
        return AddRMSNorm(config.width, dropout=config.dropout)
    return AddLayerNorm(config.width, bias=config.bias, dropout=config.dropout)


def rotary_tables(context: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al., 2021, arXiv:2104.09864).

    Both are (context, 1, head_size): pair i of a head is its elements i and i + head_size / 2,
    and turns by position * base ** (-2 i / head_size).
    """
    pairs = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    angles = torch.arange(context, dtype=torch.float64)[:, None] * ROTARY_BASE**-pairs
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)  # (context, 1, head size)
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(head_size // 2)
    dtype = torch.get_default_dtype()
    return angles.cos().to(dtype), (angles.sin() * signs).to(dtype)


class _Rotation(torch.autograd.Function):
    """A rotation's gradient is turned back by the same angle: half of what autograd would do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return (x * cosines).addcmul_(x.roll(x.shape[-1] // 2, dims=-1), sines)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return _rotation(slopes[0], cosines, -sines), None, None


_rotation: Callable[..., Tensor] = _Rotation.apply


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn every head of x, (batch, time, heads, head size), by its position."""
    return _rotation(x, cosines.to(x.dtype), sines.to(x.dtype))


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Causal attention: the last query sees every key, the one before all but the last, and so on.

    Queries and result are (batch, heads, time, head size), keys and values
    (batch, key heads, length, head size); each key head serves heads / key heads queries.
    """
    time, length = queries.shape[2], keys.shape[2]
    # The backward pass of torch's bf16 kernel for processors takes 3 to 8 times as long as the
    # matrix products it stands for; only its memory does not grow with the square of the length.
    on_amx = queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    if on_amx and queries.requires_grad and length <= EXPLICIT_LENGTH:
        return _explicit_attention(queries, keys, values, dropout)
    visible = None if time in (1, length) else _hidden(time, length, queries).logical_not()
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=visible,
        dropout_p=dropout,
        is_causal=time == length > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def _explicit_attention(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    batch, heads, time, size = queries.shape
    key_heads, length = keys.shape[1:3]
    groups = heads // key_heads
    # Queries that share a key head become more rows of one product.
    rows = queries.reshape(batch * key_heads, groups * time, size)
    keys, values = keys.reshape(-1, length, size), values.reshape(-1, length, size)
    mask = torch.zeros(time, length, dtype=queries.dtype)
    mask.masked_fill_(_hidden(time, length, queries), -math.inf)
    scores = torch.baddbmm(mask.repeat(groups, 1), rows, keys.mT, alpha=size**-0.5)
    weights = F.dropout(scores.softmax(dim=-1), dropout)  # (batch * key heads, rows, length)
    return torch.bmm(weights, values).view(batch, heads, time, size)


def _hidden(time: int, length: int, like: Tensor) -> Tensor:
    """True where one of the last `time` queries must not see one of `length` keys."""
    return torch.ones(time, length, dtype=torch.bool, device=like.device).triu_(length - time + 1)
