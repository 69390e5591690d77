"""A ConvNeXt for small images, in one file (Liu et al., 2022, arXiv:2201.03545).

Images stay channels-last, so that a convolution of 1 x 1 pixels is a linear layer without a copy.
Read `ConvNeXt` first, then `Block`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.norm import LayerNorm2d

if TYPE_CHECKING:
    from collections.abc import Sequence

Norm = Literal["layer", "batch", "none"]


class MatrixConvolution(nn.Linear):
    """A convolution with its weight as a matrix, (out, kernel * kernel * width), which Muon takes.

    Its output has as many pixels as its input.
    """

    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__(kernel * kernel * width, out)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x, (batch, width, height, width of the image)."""
        weight = self.weight.view(self.out_features, self.kernel, self.kernel, -1)
        filters = weight.permute(0, 3, 1, 2)  # channels-last, as the images, without a copy
        return F.conv2d(x, filters, self.bias, padding=self.kernel // 2)


class Block(nn.Module):
    """x + reduce(gelu(expand(norm(depthwise(x))))): mixes pixels, then the channels of each.

    Fused: x + reduce(gelu(norm(expand(x)))), where `expand` is a convolution that mixes both.
    At first a block changes nothing, as the weights of `reduce` are 0.
    """

    def __init__(self, width: int, kernel: int, expansion: int, norm: Norm, fused: bool) -> None:
        super().__init__()
        hidden = expansion * width
        self.depthwise: nn.Module | None = None
        if fused:
            self.expand: nn.Module = MatrixConvolution(width, hidden, kernel)
        else:
            self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
            self.expand = nn.Linear(width, hidden)
        self.norm = make_norm(norm, hidden if fused else width)
        self.reduce = nn.Linear(hidden, width)
        nn.init.zeros_(self.reduce.weight)
        nn.init.zeros_(self.reduce.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x, (batch, width, height, width of the image)."""
        if self.depthwise is None:
            hidden = self.norm(self.expand(x)).permute(0, 2, 3, 1)  # (batch, height, width, hidden)
        else:
            hidden = self.expand(self.norm(self.depthwise(x)).permute(0, 2, 3, 1))
        mixed: Tensor = self.reduce(F.gelu(hidden))
        return x + mixed.permute(0, 3, 1, 2)


class Halving(nn.Module):
    """Norm, then a convolution of 2 x 2 pixels with stride 2, as a linear layer."""

    def __init__(self, width: int, out: int, norm: Norm) -> None:
        super().__init__()
        self.norm = make_norm(norm, width)
        self.linear = nn.Linear(4 * width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width of x, (batch, width, height, width of the image).

        Raises:
            ConfigError: a side of x is odd.
        """
        batch, channels, height, width = x.shape
        if height % 2 or width % 2:
            raise ConfigError(
                "images must be so large that their sides can be halved between two stages",
                got=f"{height} x {width} pixels there",
                fix="other images, or fewer stages",
            )
        pixels = self.norm(x).permute(0, 2, 3, 1)
        pixels = pixels.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
        return self.linear(pixels.flatten(3)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class ConvNeXt(nn.Module):
    """Scores of classes, (batch, classes), from images, (batch, channels, height, width).

    Differences from the paper, for small images and short trainings: the first convolution
    overlaps, the last convolution of every block begins at 0 (instead of a learned scale of 1e-6),
    and the last norm comes before the mean over pixels. Other weights begin as torch's do.

    Args:
        classes: to tell apart.
        channels: of the images.
        widths: channels in each stage; between two stages the sides of the image are halved.
        depths: blocks in each stage.
        kernel: pixels of a side of the convolutions in the blocks; odd.
        expansion: hidden channels of a block, as a multiple of its width.
        fused: one convolution in place of the depthwise one and the linear layer that follows it,
            as in EfficientNetV2 (Tan and Le, 2021, arXiv:2104.00298): more products, but those
            that processors are fast at.
        patch: stride of the first convolution.
        norm: "layer": each pixel over its channels; "batch": each channel over the pixels of the
            batch; "none".

    Raises:
        ConfigError: a size or a choice is not valid; when called, the images are too small.
    """

    def __init__(
        self,
        classes: int,
        *,
        channels: int = 1,
        widths: Sequence[int] = (64, 128),
        depths: Sequence[int] = (2, 2),
        kernel: int = 7,
        expansion: int = 4,
        fused: bool = False,
        patch: int = 2,
        norm: Norm = "layer",
    ) -> None:
        super().__init__()
        _check(widths, depths, kernel)
        side = max(3, 2 * patch - 1)
        self.stem = nn.Conv2d(channels, widths[0], side, stride=patch, padding=side // 2)
        layers: list[nn.Module] = []
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers.append(Halving(widths[stage - 1], width, norm))
            layers.extend(Block(width, kernel, expansion, norm, fused) for _ in range(depth))
        self.layers = nn.Sequential(*layers)
        self.norm = make_norm(norm, widths[-1])
        self.head = nn.Linear(widths[-1], classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Scores of all classes, (batch, classes)."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        x = self.norm(self.layers(x))  # (batch, width, height, width of the image)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def make_norm(norm: Norm, width: int) -> nn.Module:
    """The norm of this name, over (batch, width, height, width of the image).

    Raises:
        ConfigError: there is none.
    """
    match norm:
        case "layer":
            return LayerNorm2d(width)
        case "batch":
            return nn.BatchNorm2d(width)
        case "none":
            return nn.Identity()
    raise ConfigError("norm must be one of layer, batch, none", got=repr(norm))


def _check(widths: Sequence[int], depths: Sequence[int], kernel: int) -> None:
    if not widths or len(widths) != len(depths):
        raise ConfigError(
            "widths and depths must name as many stages, and one at least",
            got=f"{tuple(widths)} and {tuple(depths)}",
        )
    if kernel < 1 or kernel % 2 == 0:
        raise ConfigError("kernel must be odd", got=repr(kernel), fix="kernel=7")
