"""`LayerNorm2d`: normalizes every pixel of an image over its channels, without a copy."""

# No `from __future__ import annotations`: torch.fx stores the evaluated annotations of `forward`.
import torch
from torch import Tensor, fx
from torch.jit import is_scripting  # type: ignore[attr-defined]

from metronorm.errors import ConfigError
from metronorm.norm.call import normalize
from metronorm.norm.checks import Save
from metronorm.norm.layer_norm import LayerNorm, layer_norm

fx.wrap("normalize")


class LayerNorm2d(LayerNorm):
    """Layer normalization over the channels of (batch, channels, height, width).

    As in ConvNeXt (Liu et al., 2022, arXiv:2201.03545). The result equals that of three steps:
    permute the channels to the end, apply `LayerNorm`, permute back. It takes one pass and no copy,
    for contiguous and for `channels_last` images, and the output has the input's memory layout.
    `weight` and `bias` are (channels,).

    Args:
        channels: number of channels of the images.
        eps: added to the variance.
        elementwise_affine: learn `weight` (and `bias`).
        bias: learn `bias`.
        device: where the parameters live.
        dtype: dtype of the parameters.
        save: the tensor that the backward pass keeps, as in `LayerNorm`.

    Raises:
        ConfigError: as `LayerNorm`; `channels` is several sizes; when called, the input does not
            have four dimensions.
    """

    def __init__(
        self,
        channels: int,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        save: Save = "input",
    ) -> None:
        super().__init__(channels, eps, elementwise_affine, bias, device, dtype, save=save)
        if len(self.normalized_shape) > 1:
            raise ConfigError(
                "channels must be one number", got=repr(channels), fix="LayerNorm(normalized_shape)"
            )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """Normalize input, (batch, channels, height, width)."""
        return normalize(
            _channels_last(input),
            self.normalized_shape,
            self.weight,
            self.bias,
            self.eps,
            True,
            self.save == "output",
        ).permute(0, 3, 1, 2)


def layer_norm_2d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    *,
    save: Save = "input",
) -> Tensor:
    """`LayerNorm2d` as a function: x is (batch, channels, height, width), weights (channels,).

    Returns:
        The normalized x, of its shape, dtype and memory layout.

    Raises:
        ConfigError: as the class.
    """
    last = _channels_last(x)
    return layer_norm(last, last.shape[-1], weight, bias, eps, save=save).permute(0, 3, 1, 2)


@fx.wrap
def _channels_last(x: Tensor) -> Tensor:
    """The same memory, seen as (batch, height, width, channels)."""
    if is_scripting():
        assert x.dim() == 4, "an image batch has four dimensions: (batch, channels, height, width)"
    elif x.dim() != 4:
        raise ConfigError(
            "an image batch has four dimensions: (batch, channels, height, width)",
            got=f"shape {tuple(x.shape)}",
            fix="x.unsqueeze(0) for a single image",
        )
    return x.permute(0, 2, 3, 1)
