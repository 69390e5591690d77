"""A vision transformer for small images, in one file (Dosovitskiy et al., 2021, arXiv:2010.11929).

As in the compact transformers of Hassani et al. (2021, arXiv:2104.05704), convolutions make the
tokens, and a weighted mean of all tokens takes the place of a class token. Read `ViT` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.norm import AddLayerNorm, LayerNorm2d

if TYPE_CHECKING:
    from collections.abc import Sequence


class Attention(nn.Module):
    """Self-attention: every token sees every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x, (batch, tokens, width), over tokens."""
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (batch, tokens, 3, heads, size)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # (batch, heads, tokens, size) each
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm: attention, then two linear layers, each added to the residual stream.

    As in `metronorm.models.gpt`, each norm also adds what the sub-layer before it gave.
    """

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.attention_norm = AddLayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = AddLayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.reduce = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, stream: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of the second sub-layer, and the residual stream without it.

        Args:
            x: (batch, tokens, width), the output before this block, not yet added to `stream`.
            stream: (batch, tokens, width); None in the first block.
        """
        normed, stream = self.attention_norm(x, stream)
        normed, stream = self.mlp_norm(self.attention(normed), stream)
        return self.reduce(F.gelu(self.expand(normed))), stream


class ViT(nn.Module):
    """Scores of classes, (batch, classes), from images, (batch, channels, height, width).

    Two convolutions of 3 x 3 pixels with stride 2 make a token of every 4 x 4 pixels; each place
    has a learned vector. The last norm is followed by a mean of all tokens, weighted by a softmax.
    What writes into the residual stream begins at 0, so at first no block changes anything; other
    weights begin as torch's do.

    Args:
        classes: to tell apart.
        size: height and width of the images, in pixels.
        channels: of the images.
        width: of the residual stream.
        layers: blocks.
        heads: of attention; must divide the width.
        expansion: hidden size of a block's linear layers, as a multiple of the width.

    Raises:
        ConfigError: the heads do not divide the width; when called, images of another size.
    """

    def __init__(
        self,
        classes: int,
        *,
        size: Sequence[int] = (28, 28),
        channels: int = 1,
        width: int = 96,
        layers: int = 6,
        heads: int = 3,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        if width % 2 or heads < 1 or width % heads:
            raise ConfigError(
                "width must be even, and heads must divide it", got=f"width={width}, heads={heads}"
            )
        self.size = tuple(size)
        height, across = (-(-side // 4) for side in self.size)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, stride=2, padding=1),
            LayerNorm2d(width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )
        self.positions = nn.Parameter(torch.empty(height * across, width))
        self.blocks = nn.ModuleList(Block(width, heads, expansion) for _ in range(layers))
        self.norm = AddLayerNorm(width)
        self.pool = nn.Parameter(torch.zeros(width))  # at first all tokens weigh the same
        self.head = nn.Linear(width, classes)
        self.reset_parameters()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def reset_parameters(self) -> None:
        """Draw the vectors of the places, and set to 0 what writes into the residual stream."""
        nn.init.normal_(self.positions, std=0.02)
        for name, module in self.named_modules():
            if name.endswith((".out", ".reduce")) and isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of all classes, (batch, classes)."""
        if tuple(images.shape[2:]) != self.size:
            raise ConfigError(
                f"images must have {' x '.join(map(str, self.size))} pixels",
                got=f"shape {tuple(images.shape)}",
                fix="size=, or resized images",
            )
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        x = x.permute(0, 2, 3, 1).flatten(1, 2) + self.positions  # (batch, tokens, width)
        stream = None
        for block in self.blocks:
            x, stream = block(x, stream)
        tokens = self.norm(x, stream)[0]
        weights = (tokens @ self.pool).softmax(1)  # (batch, tokens)
        return self.head((weights[:, None] @ tokens)[:, 0])  # type: ignore[no-any-return]
