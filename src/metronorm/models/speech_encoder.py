"""An encoder of speech: fewer frames by convolutions, then pre-norm blocks that see the whole.

With an output for every frame it is for CTC; pooled over time it is a classifier. The blocks are
those of a Conformer (Gulati et al., 2020, arXiv:2005.08100) with one feed-forward layer, and with
layer normalization in the convolution too. Padding never changes a result.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.models.gpt import rotary_tables, rotate
from metronorm.norm import AddLayerNorm, LayerNorm

Stem = Literal["time", "time-frequency"]
FEWER = 4  # frames that become one


class SpeechEncoder(nn.Module):
    """From features, (batch, time, bands), to outputs, (batch, time / 4, outputs), or pooled.

    Args:
        bands: features of a frame.
        outputs: of the last layer.
        width: of the residual stream.
        layers: blocks.
        heads: of the attention; they divide the width into even parts.
        dropout: share of what is added to the stream that is dropped in training.
        kernel: frames that the convolution of a block sees, an odd number.
        stem: "time-frequency" convolves over neighbouring bands too, as suits a spectrogram;
            "time" takes all bands together, as suits features of different kinds.
        channels: of the stem "time-frequency".
        pooled: one output for each example, from the mean over its frames.

    Raises:
        ConfigError: sizes that do not fit together.
    """

    def __init__(
        self,
        bands: int,
        outputs: int,
        *,
        width: int = 144,
        layers: int = 6,
        heads: int = 4,
        dropout: float = 0.1,
        kernel: int = 15,
        stem: Stem = "time-frequency",
        channels: int = 32,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        if width % (2 * heads) or kernel % 2 == 0:
            raise ConfigError(
                "heads must divide the width into even parts, and the kernel be odd",
                got=f"width {width}, {heads} heads, kernel {kernel}",
            )
        self.head_size, self.pooled = width // heads, pooled
        flat = stem == "time"
        self.stem: nn.Module = TimeStem(bands, width) if flat else BandStem(bands, width, channels)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, kernel) for _ in range(layers))
        self.norm = AddLayerNorm(width, dropout=dropout)
        self.head = nn.Linear(width, outputs)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
                if name.endswith(".out"):  # what is added to the stream begins small
                    module.weight.data.mul_((3 * layers) ** -0.5)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode features, of which the first `lengths` frames of each example are real.

        Args:
            features: (batch, time, bands).
            lengths: (batch,), integers from 1 to time.

        Returns:
            The outputs, (batch, ceil(time / 4), outputs), or (batch, outputs) if pooled; and how
            many frames of each example they have, (batch,).
        """
        x, lengths = self.stem(features, lengths)
        real = within(lengths, x.shape[1])  # (batch, time, 1)
        x = self.dropout(x)
        tables = rotary_tables(x.shape[1], self.head_size)
        rotary = (tables[0].to(x.device), tables[1].to(x.device))
        stream = None
        for block in self.blocks:
            x, stream = block(x, stream, real, rotary)
        x = self.norm(x, stream)[0]
        if self.pooled:
            x = (x * real).sum(1) / lengths[:, None]
        return self.head(x), lengths


class Block(nn.Module):
    """Attention, a convolution over time, and a feed-forward layer, each after its norm.

    A sub-layer's output is added to the residual stream by the next norm, in one pass.
    """

    def __init__(self, width: int, heads: int, dropout: float, kernel: int) -> None:
        super().__init__()
        self.attention_norm = AddLayerNorm(width, dropout=dropout)
        self.attention = Attention(width, heads)
        self.convolution_norm = AddLayerNorm(width, dropout=dropout)
        self.convolution = Convolution(width, kernel)
        self.mlp_norm = AddLayerNorm(width, dropout=dropout)
        self.mlp = Mlp(width)

    def forward(
        self, x: Tensor, stream: Tensor | None, real: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The output of the last sub-layer, and the residual stream that it is not yet added to.

        Args:
            x: (batch, time, width), the output before this block, not yet added to `stream`.
            stream: (batch, time, width); None in the first block.
            real: bool (batch, time, 1), False in the padding.
            rotary: tables of `rotary_tables`.
        """
        normed, stream = self.attention_norm(x, stream)
        normed, stream = self.convolution_norm(self.attention(normed, real, rotary), stream)
        normed, stream = self.mlp_norm(self.convolution(normed, real), stream)
        return self.mlp(normed), stream


class Attention(nn.Module):
    """Self-attention over all real frames, with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Mix x, (batch, time, width), over time."""
        batch, time, width = x.shape
        qkv = self.qkv(x).view(batch, time, 3 * self.heads, width // self.heads)
        qk, values = qkv.split((2 * self.heads, self.heads), dim=2)
        queries, keys = rotate(qk, *rotary).transpose(1, 2).chunk(2, dim=1)
        mixed = F.scaled_dot_product_attention(
            queries,  # (batch, heads, time, head size)
            keys,
            values.transpose(1, 2),
            attn_mask=real.view(batch, 1, 1, time),
        )
        return cast("Tensor", self.out(mixed.transpose(1, 2).reshape(batch, time, width)))


class Convolution(nn.Module):
    """Each channel over neighbouring frames, between two linear layers, the first one gated."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.gated = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Mix x, (batch, time, width), over near frames."""
        x = F.glu(self.gated(x)) * real  # the padding is silence, as what is outside
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return cast("Tensor", self.out(F.silu(self.norm(x))))


class Mlp(nn.Module):
    """Feed-forward sub-layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x, (batch, time, width), at every frame separately."""
        return cast("Tensor", self.out(F.silu(self.up(x))))


class TimeStem(nn.Module):
    """Two convolutions over time, each of which halves it; they mix all features."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(bands, width, 5, stride=2, padding=2)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """From (batch, time, bands) to (batch, time / 4, width), and the new lengths."""
        x = features * within(lengths, features.shape[1])
        for convolution in (self.first, self.second):
            x = F.gelu(convolution(x.transpose(1, 2)).transpose(1, 2))
            lengths = (lengths + 1) // 2
            x = x * within(lengths, x.shape[1])
        return x, lengths


class BandStem(nn.Module):
    """Two convolutions of 3 frames x 3 bands, each of which halves both."""

    def __init__(self, bands: int, width: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.linear = nn.Linear(channels * ((bands + 3) // 4), width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """From (batch, time, bands) to (batch, time / 4, width), and the new lengths."""
        x = (features * within(lengths, features.shape[1]))[:, None]
        for convolution in (self.first, self.second):
            x = F.gelu(convolution(x))  # (batch, channels, time, bands)
            lengths = (lengths + 1) // 2
            x = x * within(lengths, x.shape[2])[:, None]
        return self.linear(x.permute(0, 2, 1, 3).flatten(2)), lengths


def within(lengths: Tensor, time: int) -> Tensor:
    """Whether each frame is real, bool (batch, time, 1)."""
    return (torch.arange(time, device=lengths.device) < lengths[:, None])[:, :, None]
