"""`LayerNorm`: y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    import torch


class LayerNorm(nn.LayerNorm):
    """Layer normalization (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

    So far this is `torch.nn.LayerNorm` with its arguments checked: same parameters, same state
    dict, same numbers.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the variance; finite, at least 0.
        elementwise_affine: learn `weight` (and `bias`).
        bias: learn `bias`; without effect where `elementwise_affine` is False.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        ConfigError: a size below 1, or an `eps` that is negative or not finite.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        *,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            checked_shape(normalized_shape),
            checked_eps(eps),
            elementwise_affine,
            bias,
            device=device,
            dtype=dtype,
        )


def checked_shape(normalized_shape: int | Sequence[int]) -> list[int]:
    """The sizes as a list, or ConfigError unless there is at least one and all are at least 1."""
    many = isinstance(normalized_shape, Sequence) and not isinstance(normalized_shape, str)
    sizes = list(normalized_shape) if isinstance(normalized_shape, Sequence) else [normalized_shape]
    plain = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not sizes or not plain or min(sizes) < 1:
        raise ConfigError(
            "normalized_shape must hold sizes of at least 1",
            got=repr(tuple(sizes) if many else normalized_shape),
            fix="the size of the last dimension, such as x.shape[-1]",
        )
    return sizes


def checked_eps(eps: float) -> float:
    """`eps`, or ConfigError unless it is finite and at least 0."""
    number = isinstance(eps, int | float) and not isinstance(eps, bool)
    if not number or not math.isfinite(eps) or eps < 0:
        raise ConfigError("eps must be finite and at least 0", got=repr(eps), fix="1e-5")
    return float(eps)
