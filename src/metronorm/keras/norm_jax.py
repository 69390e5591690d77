"""The normalization of rows as one JAX function with its own gradient."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax

from metronorm.keras import formula

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor = Any


@functools.partial(jax.jit, static_argnums=(3, 4, 5))  # eager calls are compiled too
def _outputs(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    centred: bool,
    by_matmul: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return formula.forward(x, gamma, beta, epsilon, centred=centred, by_matmul=by_matmul)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(epsilon: float, centred: bool, kept: tuple[Any, ...], dy: Tensor) -> tuple[Any, ...]:
    x, gamma, beta, m, r = kept
    dx, dgamma, dbeta = formula.backward(
        dy, x, gamma, m, r, centred=centred, by_matmul=_is_on_cpu()
    )
    return (
        dx,
        None if gamma is None else dgamma.astype(gamma.dtype),
        None if beta is None else dbeta.astype(beta.dtype),
    )


def _is_on_cpu() -> bool:
    """Say whether products of matrices are as exact as sums; accelerators may round them."""
    return bool(jax.default_backend() == "cpu")


def _forward(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, centred: bool
) -> tuple[Tensor, tuple[Any, ...]]:
    y, m, r = _outputs(x, gamma, beta, epsilon, centred, _is_on_cpu())
    return y, (x, gamma, beta, m, r)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, centred: bool
) -> Tensor:
    # without a gradient XLA fuses sums, and not products
    return _outputs(x, gamma, beta, epsilon, centred, False)[0]


_norm.defvjp(_forward, _backward)


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
    rows, gamma, beta = formula.flatten_rows(x, sizes, gamma, beta)
    return _norm(rows, gamma, beta, epsilon, centred).reshape(x.shape)
