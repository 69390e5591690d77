"""`RMSNorm`: y = x / sqrt(mean(x * x) + eps) * weight, over the last dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from metronorm.norm.layer_norm import checked_eps, checked_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalization (Zhang and Sennrich, 2019, arXiv:1910.07467).

    So far this is `torch.nn.RMSNorm` with its arguments checked and one default of its own:
    `eps` is 1e-6. Torch's default is the machine epsilon of the input's dtype, so that the same
    weights would give other numbers in bfloat16 than in float32.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the mean square; finite, at least 0.
        elementwise_affine: learn `weight`.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ConfigError: a size below 1, or an `eps` that is negative or not finite.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-6,
        *,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            checked_shape(normalized_shape),
            checked_eps(eps),
            elementwise_affine,
            device=device,
            dtype=dtype,
        )
