"""A GPT in one file: pre-norm decoder, learned or rotary positions, grouped-query attention.

`config.py` has sizes and presets, `sampling.py` draws tokens. Read `GPT` first, then `Block`, then
its two sub-layers, `Attention` and `Mlp`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.loss import linear_cross_entropy
from metronorm.norm import AddLayerNorm, AddRMSNorm

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.models.config import GPTConfig

    Rotary = tuple[Tensor, Tensor] | None  # cosines and sines, each (time, 1, head size)

ROTARY_BASE = 10_000.0
EXPLICIT_LENGTH = 384  # keys; up to this length `attend` does not use torch's kernel on CPUs


class KVCache:
    """Keys and values of the tokens that the model has seen, in tensors that are allocated once.

    Args:
        config: the shape of the model.
        batch: number of sequences.
        device: the device of the model.
        dtype: the dtype of the model's weights or, under autocast, autocast's dtype.

    Attributes:
        length: how many places are taken.
        padding: int64 (batch,), of each sequence the number of places before its first token, which
            no token sees; None: there are none.
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
        self.padding: Tensor | None = None

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer, and return all of them.

        Both are (batch, key heads, time, head size). `length` stays as it is: `GPT` adds the new
        tokens to it once, after all layers.
        """
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def keep(self, rows: list[int]) -> None:
        """Keep these sequences only, in this order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        if self.padding is not None:
            self.padding = self.padding[rows]

    def positions(self, end: int) -> Tensor | None:
        """The positions of new tokens up to a place, (batch, time); None if all rows are alike."""
        if self.padding is None:
            return None
        places = torch.arange(self.length, end, device=self.padding.device)
        return (places - self.padding[:, None]).clamp(min=0)

    def visible(self, end: int) -> Tensor | None:
        """Which keys each new token sees, (batch, 1, time, end); None: all before it, and itself.

        What stands before the first token of a sequence sees itself: no row may be empty.
        """
        if self.padding is None:
            return None
        keys = torch.arange(end, device=self.padding.device)
        queries = keys[self.length :, None]
        real = (keys <= queries) & (keys >= self.padding[:, None, None])
        return (real | (keys == queries))[:, None]


class Attention(nn.Module):
    """Causal self-attention; groups of query heads share the keys and values of one head."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.key_heads = config.heads, config.key_heads
        self.head_size, self.dropout = config.head_size, config.dropout
        width = (config.heads + 2 * config.key_heads) * config.head_size
        self.qkv = nn.Linear(config.width, width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(
        self, x: Tensor, rotary: Rotary, cache: KVCache | None, visible: Tensor | None = None
    ) -> Tensor:
        """Mix x, (batch, time, width), over time.

        Args:
            x: normalized residual stream.
            rotary: the rotary tables for the positions of x; None with learned positions.
            cache: keys and values of earlier tokens; those of x are added to it.
            visible: see `attend`.
        """
        batch, time, width = x.shape
        rotated = self.heads + self.key_heads
        qkv = self.qkv(x).view(batch, time, rotated + self.key_heads, self.head_size)
        qk, values = qkv.split((rotated, self.key_heads), dim=2)
        if rotary is not None:
            qk = rotate(qk, *rotary)
        # (batch, heads or key heads, time, head size)
        queries, keys = qk.transpose(1, 2).split((self.heads, self.key_heads), dim=1)
        values = values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.append(self.layer, keys, values)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(queries, keys, values, dropout=dropout, visible=visible)
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
        """Transform x, (batch, time, width), at every position separately."""
        hidden = self.up(x)  # (batch, time, hidden); (batch, time, 2 * hidden) if gated
        if self.gated:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * value
        else:
            hidden = F.gelu(hidden, approximate=self.approximate)
        return cast("Tensor", self.out(hidden))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    A sub-layer's output is added to the residual stream by the next norm, in one pass; for the
    second sub-layer that is the first norm of the next block.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)

    def forward(
        self,
        x: Tensor,
        stream: Tensor | None,
        rotary: Rotary,
        cache: KVCache | None,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The output of the second sub-layer, and the residual stream that it is not yet added to.

        Args:
            x: (batch, time, width), the output before this block, not yet added to `stream`.
            stream: (batch, time, width); None in the first block.
            rotary: as in `Attention`.
            cache: as in `Attention`.
            visible: as in `Attention`.
        """
        normed, stream = self.attention_norm(x, stream)
        mixed = self.attention(normed, rotary, cache, visible)
        normed, stream = self.mlp_norm(mixed, stream)
        return self.mlp(normed), stream


class GPT(nn.Module):
    """Decoder-only transformer.

    Weights are initialized as in GPT-2 (Radford et al., 2019): linear and embedding weights from
    N(0, 0.02), except those that write into the residual stream: N(0, 0.02 / sqrt(2 * layers)).
    Biases are 0.
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
        """Draw new weights from torch's default generator."""
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
        """Logits or, if targets are given, the summed loss.

        Args:
            tokens: token ids, (batch, time), with time at most `context`.
            targets: the token that follows each one, (batch, time); -100 is not counted.
            cache: keys and values of the tokens before these; theirs are added to it.

        Returns:
            Without targets, logits, (batch, time, vocab_size). With targets, the cross entropy in
            nats, *summed* over the targets, a scalar in float32 at least: divide it by the number
            of targets of the whole window. The logits of a large vocabulary are never held.

        Raises:
            ConfigError: there are more tokens than the context holds.
        """
        features = self.features(tokens, cache=cache)
        if targets is not None and self.config.has_large_vocabulary:
            return linear_cross_entropy(features, (self.head or self.tokens).weight, targets)
        logits = self.logits(features)
        if targets is None:
            return logits
        wide = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(
            logits.flatten(0, 1).to(wide), targets.flatten(), reduction="sum", ignore_index=-100
        )

    def features(self, tokens: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """The residual stream after the last norm, (batch, time, width).

        Arguments and errors are those of `forward`.
        """
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.config.context:
            raise ConfigError(
                f"a sequence must fit the model's context of {self.config.context} tokens",
                got=f"{end} tokens" + (f", {start} of them in the cache" if start else ""),
                fix="crop it, or train with a longer context",
            )
        x = self.tokens(tokens)  # (batch, time, width)
        own = None if cache is None else cache.positions(end)  # (batch, time), where rows differ
        places: slice | Tensor = slice(start, end) if own is None else own
        rotary = None
        if self.positions is not None:
            x = x + self.positions.weight[places]
        else:
            rotary = self.cosines[places], self.sines[places]
        x = self.dropout(x)
        visible = None if cache is None else cache.visible(end)
        stream = None
        for block in self.blocks:
            x, stream = block(x, stream, rotary, cache, visible)
        if cache is not None:
            cache.length = end
        return cast("Tensor", self.norm(x, stream)[0])

    def logits(self, features: Tensor) -> Tensor:
        """Scores of all tokens of the vocabulary, (..., vocab_size), from (..., width) features."""
        return F.linear(features, (self.head or self.tokens).weight)


def make_norm(config: GPTConfig) -> AddLayerNorm | AddRMSNorm:
    """The norm layer of the config; it also adds the residual, with dropout."""
    if config.norm == "rms":
        return AddRMSNorm(config.width, dropout=config.dropout)
    return AddLayerNorm(config.width, bias=config.bias, dropout=config.dropout)


def rotary_tables(context: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions (Su et al., 2021, arXiv:2104.09864).

    Both are (context, 1, head_size). Elements i and i + head_size / 2 of a head are a pair, which
    is rotated by the angle position * base ** (-2 i / head_size).
    """
    pairs = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    angles = torch.arange(context, dtype=torch.float64)[:, None] * ROTARY_BASE**-pairs
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)  # (context, 1, head size)
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(head_size // 2)
    dtype = torch.get_default_dtype()
    return angles.cos().to(dtype), (angles.sin() * signs).to(dtype)


class _Rotation(torch.autograd.Function):
    """The gradient of a rotation is the opposite rotation; autograd would take twice the time."""

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
    """Rotate every head of x, (batch, time, heads, head size), by the angles of its position.

    Cosines and sines are (time, 1, head size), from `rotary_tables`.
    """
    return _rotation(x, cosines.to(x.dtype), sines.to(x.dtype))


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    dropout: float = 0.0,
    visible: Tensor | None = None,
) -> Tensor:
    """Causal attention: the last query sees all keys, the query before it all but the last, ...

    Args:
        queries: (batch, heads, time, head size).
        keys: (batch, key heads, length, head size); heads / key heads query heads share a key head.
        values: as keys.
        dropout: probability that an attention weight is dropped.
        visible: bool (batch, 1, time, length), which keys a query sees; None: as above.

    Returns:
        (batch, heads, time, head size).
    """
    time, length = queries.shape[2], keys.shape[2]
    # The backward pass of torch's bf16 kernel for CPUs takes 3 to 8 times as long as the matrix
    # products that it replaces. Its one advantage: its memory does not grow with length squared.
    bf16_on_cpu = queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    if bf16_on_cpu and queries.requires_grad and length <= EXPLICIT_LENGTH and visible is None:
        return _explicit_attention(queries, keys, values, dropout)
    is_causal = visible is None and time == length > 1
    if visible is None and time not in (1, length):
        visible = _hidden(time, length, queries).logical_not()
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=visible,
        dropout_p=dropout,
        is_causal=is_causal,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def _explicit_attention(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    batch, heads, time, size = queries.shape
    key_heads, length = keys.shape[1:3]
    groups = heads // key_heads
    # The queries that share a key head are rows of one matrix product.
    rows = queries.reshape(batch * key_heads, groups * time, size)
    keys, values = keys.reshape(-1, length, size), values.reshape(-1, length, size)
    mask = torch.zeros(time, length, dtype=queries.dtype)
    mask.masked_fill_(_hidden(time, length, queries), -math.inf)
    scores = torch.baddbmm(mask.repeat(groups, 1), rows, keys.mT, alpha=size**-0.5)
    weights = F.dropout(scores.softmax(dim=-1), dropout)  # (batch * key heads, rows, length)
    return torch.bmm(weights, values).view(batch, heads, time, size)


def _hidden(time: int, length: int, like: Tensor) -> Tensor:
    """(time, length) bool: True where a query must not see a key; the last query sees them all."""
    return torch.ones(time, length, dtype=torch.bool, device=like.device).triu_(length - time + 1)
