"""The normalization of rows by the kernels of `metronorm.norm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.norm import layer_norm, rms_norm

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor = Any


def norm(
    x: Tensor,
    sizes: Sequence[int],
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    *,
    centred: bool,
) -> Tensor:
    """Normalize the last axes of x.

    Args:
        x: a tensor of shape (..., *sizes), of any floating dtype.
        sizes: the sizes of the normalized axes.
        gamma: a tensor of shape `sizes`, or None.
        beta: a tensor of shape `sizes`, or None.
        epsilon: the number that is added to the variance.
        centred: whether the mean is subtracted.

    Returns:
        A tensor of x's shape and dtype.
    """
    gamma, beta = _with_kernel_dtype(gamma, x), _with_kernel_dtype(beta, x)
    if centred:
        return layer_norm(x, sizes, gamma, beta, epsilon)
    assert beta is None, "the kernels of rms_norm take no bias"
    return rms_norm(x, sizes, gamma, epsilon)


def _with_kernel_dtype(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """Cast a weight for the kernels: float32 may stay beside half precision, else x's dtype."""
    if weight is None or (weight.dtype.itemsize == 4 and x.dtype.itemsize == 2):
        return weight
    return weight.to(x.dtype)
