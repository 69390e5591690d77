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
    """Normalize x, (..., *sizes), in its dtype; gamma and beta are of these sizes, or None."""
    gamma, beta = _fitting(gamma, x), _fitting(beta, x)
    if centred:
        return layer_norm(x, sizes, gamma, beta, epsilon)
    assert beta is None, "the kernels of rms_norm take no bias"
    return rms_norm(x, sizes, gamma, epsilon)


def _fitting(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """The kernels take weights in float32 beside half precision, else in x's dtype."""
    if weight is None or (weight.dtype.itemsize == 4 and x.dtype.itemsize == 2):
        return weight
    return weight.to(x.dtype)
