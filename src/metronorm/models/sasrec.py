"""A recommender in one file: a causal transformer over the items that somebody chose, in order.

SASRec (Kang and McAuley, 2018, arXiv:1808.09781) with the full softmax over all items, which makes
it better than with sampled negatives (Klenitskiy and Vasilev, 2023, arXiv:2309.07602), and with the
norms before both sub-layers of a block. Read `SASRec` first, then `Block`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.loss import linear_cross_entropy
from metronorm.norm import AddLayerNorm

if TYPE_CHECKING:
    from collections.abc import Callable

    AddNorm = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


class SASRec(nn.Module):
    """What somebody chooses next, given the items so far.

    Item embeddings are the output layer too. Weights begin as N(0, 0.02), those that write into the
    residual stream as N(0, 0.02 / sqrt(2 * blocks)), biases as 0.

    Args:
        items: in the catalogue.
        width: numbers per item, and of the residual stream.
        blocks: of attention and feed-forward layer.
        heads: of attention; must divide `width`.
        length: most items that are seen at once.
        dropout: share of activations and attention weights that are dropped in training.
        norm: "layer": LayerNorm before each sub-layer and at the end; "none".

    Raises:
        ConfigError: sizes below 1, or heads that do not divide the width.
    """

    def __init__(
        self,
        items: int,
        *,
        width: int = 64,
        blocks: int = 2,
        heads: int = 1,
        length: int = 200,
        dropout: float = 0.2,
        norm: Literal["layer", "none"] = "layer",
    ) -> None:
        super().__init__()
        sizes = {"items": items, "width": width, "blocks": blocks, "heads": heads, "length": length}
        if small := [f"{name}={size}" for name, size in sizes.items() if size < 1]:
            raise ConfigError("sizes must be at least 1", got=", ".join(small))
        if width % heads:
            raise ConfigError("heads must divide the width", got=f"{heads} heads, width {width}")
        self.length, self.dropout = length, dropout
        self.items = nn.Embedding(items, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, norm) for _ in range(blocks))
        self.norm = make_norm(width, dropout, norm)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights from torch's default generator."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                writes = name.endswith(".out")
                deep = math.sqrt(2 * len(self.blocks)) if writes else 1.0
                nn.init.normal_(module.weight, std=0.02 / deep)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, AddLayerNorm):
                module.reset_parameters()

    def forward(self, chosen: Tensor, targets: Tensor | None = None) -> Tensor:
        """Scores of all items for what comes next or, with targets, the summed loss.

        Args:
            chosen: numbers of items, (batch, time), with time at most `length`. What stands after a
                sequence, to fill the row, may be any item: nothing before it sees it.
            targets: the item that follows each one, (batch, time); -100 is not counted.

        Returns:
            Without targets, scores, (batch, time, items). With targets, the cross entropy in nats,
            *summed* over the targets, a scalar: divide it by their number. The scores of the whole
            catalogue are never held then.

        Raises:
            ConfigError: there are more items in a row than `length`.
        """
        features = self.features(chosen)
        if targets is None:
            return self.scores(features)
        return linear_cross_entropy(features, self.items.weight, targets)

    def features(self, chosen: Tensor) -> Tensor:
        """The residual stream after the last norm, (batch, time, width), of items (batch, time).

        Raises:
            ConfigError: there are more items in a row than `length`.
        """
        time = chosen.shape[1]
        if time > self.length:
            raise ConfigError(
                f"a sequence must fit the model's length of {self.length} items",
                got=f"{time} items",
                fix="the newest ones",
            )
        x = self.items(chosen) + self.positions.weight[:time]
        x = F.dropout(x, self.dropout, self.training)
        stream = None
        for block in self.blocks:
            x, stream = block(x, stream)
        return cast("Tensor", self.norm(x, stream)[0])

    def scores(self, features: Tensor) -> Tensor:
        """Scores of all items, (..., items), from features, (..., width)."""
        return F.linear(features, self.items.weight)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)).

    As in our GPT, the next norm adds a sub-layer's output to the residual stream.
    """

    def __init__(self, width: int, heads: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.attention_norm = make_norm(width, dropout, norm)
        self.attention = Attention(width, heads, dropout)
        self.forward_norm = make_norm(width, dropout, norm)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, stream: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of the second sub-layer, and the residual stream that it is not yet added to.

        Both, and x, are (batch, time, width).
        """
        normed, stream = self.attention_norm(x, stream)
        normed, stream = self.forward_norm(self.attention(normed), stream)
        return self.feed_forward(normed), stream


class Attention(nn.Module):
    """Causal self-attention. The sequences are short: the attention weights are held."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x, (batch, time, width), over the time up to each place."""
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, head size)
        scores = queries @ keys.mT / math.sqrt(width // self.heads)
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu_(1)
        weights = scores.masked_fill(later, -math.inf).softmax(-1).to(values.dtype)
        mixed = F.dropout(weights, self.dropout, self.training) @ values
        return cast("Tensor", self.out(mixed.transpose(1, 2).reshape(batch, time, width)))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, at every place separately."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x, (batch, time, width)."""
        return cast("Tensor", self.out(F.gelu(self.up(x))))


class _NoNorm(nn.Module):
    """`AddLayerNorm` without the norm."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The residual stream, twice; x and residual are (batch, time, width)."""
        if residual is None:
            return x, x
        summed = residual + F.dropout(x, self.dropout, self.training)
        return summed, summed


def make_norm(width: int, dropout: float, norm: str) -> nn.Module:
    """What adds a sub-layer's output to the residual stream, and normalizes the sum."""
    return AddLayerNorm(width, dropout=dropout) if norm == "layer" else _NoNorm(dropout)
