"""The equations of a normalization over the rows of a matrix, in `keras.ops`.

TensorFlow and JAX compile these functions. With s the first element of a row, m = mean(x - s),
d = x - s - m and r = 1 / sqrt(mean(d²) + epsilon):

    h = d * r                         y = h * gamma + beta

Subtracting s first makes constant rows exactly zero and keeps all digits under a large mean. Root
mean square normalization is the same with s = m = 0. Ba, Kiros and Hinton (2016), arXiv:1607.06450;
Zhang and Sennrich (2019), arXiv:1910.07467.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor = Any


def flatten_rows(
    x: Tensor, sizes: Sequence[int], gamma: Tensor | None, beta: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Make a matrix of the normalized rows, and vectors of their weights.

    Args:
        x: a tensor of shape (..., *sizes).
        sizes: the sizes of the normalized axes.
        gamma: a tensor of shape `sizes`, or None.
        beta: a tensor of shape `sizes`, or None.

    Returns:
        x as (rows, n), gamma and beta as (n,) or None; n is the product of `sizes`.
    """
    if len(sizes) > 1:
        gamma, beta = (each if each is None else ops.reshape(each, (-1,)) for each in (gamma, beta))
    rows = x if len(x.shape) == 2 == 1 + len(sizes) else ops.reshape(x, (-1, math.prod(sizes)))
    return rows, gamma, beta


def forward(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    *,
    centred: bool,
    by_matmul: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, (rows, n) in x's dtype, and m and r, (rows, 1) in the dtype of the sums.

    All sums are float32, for float64 inputs float64.

    Args:
        x: a tensor of shape (rows, n), of any floating dtype.
        gamma: a tensor of shape (n,), or None.
        beta: a tensor of shape (n,), or None.
        epsilon: the number that is added to the variance.
        centred: whether the mean is subtracted.
        by_matmul: whether sums are products with ones, which are faster on a CPU.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    d = ops.cast(x, _wide(dtype))
    m = ops.zeros((1, 1), d.dtype)
    if centred:
        d = d - d[:, :1]
        m = _row_mean(d, None, by_matmul)
        d = d - m
    r = ops.rsqrt(_row_mean(d * d, None, by_matmul) + epsilon)
    y = d * r
    if gamma is not None:
        y = y * ops.cast(gamma, d.dtype)
    if beta is not None:
        y = y + ops.cast(beta, d.dtype)
    return ops.cast(y, dtype), m, r


def backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    m: Tensor,
    r: Tensor,
    *,
    centred: bool,
    by_matmul: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients: dx (rows, n) in x's dtype; dgamma, dbeta (n,) in the dtype of the sums.

    `dy` is the gradient of the output, (rows, n); `m` and `r` are from `forward`; the other
    arguments are those of `forward`. With a = dy * gamma:

    dx = r * (a - mean(a) - h * mean(a * h)), dgamma = sum(dy * h), dbeta = sum(dy).
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    x, dy = ops.cast(x, m.dtype), ops.cast(dy, m.dtype)
    h = ((x - x[:, :1]) - m) * r if centred else x * r
    t = dy * h
    if gamma is not None:
        gamma = ops.cast(gamma, m.dtype)
    dx = dy if gamma is None else dy * gamma
    moved = h * _row_mean(t, gamma, by_matmul)
    if centred:
        moved = moved + _row_mean(dy, gamma, by_matmul)
    dx = ops.cast((dx - moved) * r, dtype)
    return dx, _column_sum(t, by_matmul), _column_sum(dy, by_matmul)


def double_backward(
    outer: Sequence[Tensor],
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    epsilon: float,
    *,
    centred: bool,
    by_matmul: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `backward`'s inputs dy, x and gamma, in the dtype of the sums.

    `outer` has the gradients u, p, q of `backward`'s outputs dx, dgamma, dbeta; the other arguments
    are those of `forward` and `backward`. With a = dy * gamma, the projection
    P(v) = v - mean(v) - h * mean(v * h), without mean(v) where nothing is centred, and
    k = p * dy - r * (u * mean(a * h) + a * mean(u * h)):

    to dy = gamma * r * P(u) + p * h + q, to gamma = sum of dy * r * P(u) over the rows,
    to x = r * P(k) - r² * h * mean(u * P(a)).

    Every step starts from x and can be differentiated.
    """
    u, p, q = outer
    d = ops.cast(x, u.dtype)
    if centred:
        d = d - d[:, :1]
        d = d - _row_mean(d, None, by_matmul)
    r = ops.rsqrt(_row_mean(d * d, None, by_matmul) + epsilon)
    h = d * r

    def mean(v: Tensor) -> Tensor:
        return _row_mean(v, None, by_matmul)

    def project(v: Tensor) -> Tensor:
        out = v - h * mean(v * h)
        return out - mean(v) if centred else out

    a = dy if gamma is None else dy * gamma
    moved = r * project(u)
    k = p * dy - r * (u * mean(a * h) + a * mean(u * h))
    to_x = r * project(k) - r * r * h * mean(u * project(a))
    to_dy = (moved if gamma is None else moved * gamma) + p * h + q
    return to_dy, to_x, _column_sum(dy * moved, by_matmul)


def _wide(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def _row_mean(t: Tensor, weights: Tensor | None, by_matmul: bool) -> Tensor:
    """Return mean(t * weights) of every row, (rows, 1)."""
    n = ops.shape(t)[1]
    if by_matmul:
        column = ops.ones((n, 1), t.dtype) if weights is None else ops.reshape(weights, (-1, 1))
        total = ops.matmul(t, column)
    else:  # Keras' mean is float32 even for float64 inputs
        total = ops.sum(t if weights is None else t * weights, axis=1, keepdims=True)
    return total / ops.cast(n, t.dtype)


def _column_sum(t: Tensor, by_matmul: bool) -> Tensor:
    if not by_matmul:
        return ops.sum(t, axis=0)
    return ops.reshape(ops.matmul(ops.ones((1, ops.shape(t)[0]), t.dtype), t), (-1,))
