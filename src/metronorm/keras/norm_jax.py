"""The normalization of rows as one JAX function with its own gradient."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax

from metronorm.keras import formula

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor = Any


@functools.partial(jax.jit, static_argnums=(3, 4, 5))  # eager calls, too
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
        dy, x, gamma, m, r, centred=centred, by_matmul=_on_processors()
    )
    return (
        dx,
        None if gamma is None else dgamma.astype(gamma.dtype),
        None if beta is None else dbeta.astype(beta.dtype),
    )


def _on_processors() -> bool:
    """Elsewhere a product of matrices may be rounded to fewer bits than a sum."""
    return bool(jax.default_backend() == "cpu")


def _forward(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, centred: bool
) -> tuple[Tensor, tuple[Any, ...]]:
    y, m, r = _outputs(x, gamma, beta, epsilon, centred, _on_processors())
    return y, (x, gamma, beta, m, r)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float, centred: bool
) -> Tensor:
    return _outputs(x, gamma, beta, epsilon, centred, False)[0]  # XLA fuses sums without a gradient


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
    """Normalize x, (..., *sizes), in its dtype; gamma and beta are of these sizes, or None."""
    rows, gamma, beta = formula.flattened(x, sizes, gamma, beta)
    return _norm(rows, gamma, beta, epsilon, centred).reshape(x.shape)
