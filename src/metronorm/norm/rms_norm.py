"""`RMSNorm`: y = x / sqrt(mean(x * x) + eps) * weight, over the last dimensions."""

# No `from __future__ import annotations`: torch.fx stores the evaluated annotations of `forward`.
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from metronorm.norm.call import normalize
from metronorm.norm.checks import Save, checked_eps, checked_save, checked_shape

fx.wrap("checked_shape")
fx.wrap("normalize")


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalization (Zhang and Sennrich, 2019, arXiv:1910.07467).

    It replaces `torch.nn.RMSNorm`, with another default: `eps` is 1e-6, as in published models.
    Torch's default is None, the machine epsilon of the dtype of computation.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the mean square, inside the root; finite and positive, or None as in torch.
        elementwise_affine: learn `weight`.
        device: where the parameters live.
        dtype: dtype of the parameters: the input's, or float32 beside a half-precision input.
        save: the tensor that the backward pass keeps, as in `LayerNorm`.

    Raises:
        ConfigError: as `LayerNorm`.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = 1e-6,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        save: Save = "input",
    ) -> None:
        sizes = list(checked_shape(normalized_shape))
        eps = None if eps is None else checked_eps(eps)
        super().__init__(sizes, eps, elementwise_affine, device, dtype)
        checked_save(save)
        self.save = save

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (..., *normalized_shape)."""
        return normalize(
            x,
            self.normalized_shape,
            self.weight,
            None,
            self.eps,
            False,
            self.save == "output",
        )


def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = 1e-6,
    *,
    save: Save = "input",
) -> Tensor:
    """`RMSNorm` as a function; arguments and errors are those of `layer_norm`.

    Returns:
        The normalized x, of its shape, dtype and memory layout.
    """
    shape = checked_shape(normalized_shape)
    eps = None if eps is None else checked_eps(eps)
    return normalize(x, shape, weight, None, eps, False, checked_save(save))
