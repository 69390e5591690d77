"""The normalization of rows as one TensorFlow operation with its own gradient.

XLA compiles it where its shape is known, in eager calls and inside of a `tf.function`: composed
operations would read and write all memory a dozen times. Inputs that always have new shapes run as
an ordinary graph, since every compilation takes a fraction of a second.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from metronorm.keras import formula

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Tensor = Any

_MOST_COMPILED = 16  # the number of shapes that are compiled for eager calls
_compiled: set[tuple[Any, ...]] = set()


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
    # a custom gradient cannot take variables
    weights = [tf.convert_to_tensor(each) for each in (gamma, beta) if each is not None]
    run = _graphs(_worth_compiling(rows), epsilon, centred, gamma is not None, beta is not None)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def operation(x: Tensor, *weights: Tensor) -> Any:
        # without stop_gradient an eager tape would keep the results of every step
        y, m, r = run.forward(*map(tf.stop_gradient, (x, *weights)))

        def gradient(dy: Tensor) -> Any:
            return run.gradient(dy, x, weights, tf.stop_gradient(m), tf.stop_gradient(r))

        return y, gradient

    y = operation(rows, *weights)
    return y if rows is x else tf.reshape(y, tf.shape(x))


class _Graphs:
    """Forward and backward pass of one kind of normalization, each compiled once."""

    def __init__(self, compiled: bool, epsilon: float, centred: bool, gamma: bool, beta: bool):
        # a GPU may multiply with ten bits of mantissa (TF32)
        by_matmul = not tf.config.list_logical_devices("GPU")

        def unpacked(weights: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
            return weights[0] if gamma else None, weights[-1] if beta else None

        def forward(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return formula.forward(
                x, *unpacked(weights), epsilon, centred=centred, by_matmul=by_matmul
            )

        def backward(
            dy: Tensor, x: Tensor, m: Tensor, r: Tensor, *weights: Tensor
        ) -> tuple[Tensor, ...]:
            dx, dgamma, dbeta = formula.backward(
                dy, x, unpacked(weights)[0], m, r, centred=centred, by_matmul=by_matmul
            )
            sums = ([dgamma] if gamma else []) + ([dbeta] if beta else [])
            return dx, *(
                tf.cast(total, each.dtype) for total, each in zip(sums, weights, strict=True)
            )

        def second(
            outer: Sequence[Tensor], dy: Tensor, x: Tensor, *weights: Tensor
        ) -> tuple[Tensor, ...]:
            wide = tf.float64 if x.dtype == tf.float64 else tf.float32
            given = iter([tf.cast(each, wide) for each in outer])
            none = tf.zeros((), wide)
            outer = next(given), next(given) if gamma else none, next(given) if beta else none
            scale = unpacked(weights)[0]
            to_dy, to_x, to_gamma = formula.double_backward(
                outer,
                tf.cast(dy, wide),
                x,
                None if scale is None else tf.cast(scale, wide),
                epsilon,
                centred=centred,
                by_matmul=by_matmul,
            )
            to_weights = ([to_gamma] if gamma else []) + (
                [tf.zeros_like(weights[-1])] if beta else []
            )
            return tuple(
                tf.cast(total, each.dtype)
                for total, each in zip((to_dy, to_x, *to_weights), (dy, x, *weights), strict=True)
            )

        graph: Callable[..., Any] = functools.partial(
            tf.function, jit_compile=True if compiled else None, reduce_retracing=True
        )
        self.forward, self._backward, self._second = graph(forward), graph(backward), second

    def gradient(
        self, dy: Tensor, x: Tensor, weights: tuple[Tensor, ...], m: Tensor, r: Tensor
    ) -> Any:
        """Return the gradients of x and of the weights; they can be differentiated once more.

        Args:
            dy: the gradient of the output, (rows, n).
            x: the input, (rows, n).
            weights: gamma and beta, (n,) each, those that there are.
            m: the means from the forward pass, (rows, 1).
            r: the reciprocal deviations from the forward pass, (rows, 1).
        """

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def operation(dy: Tensor, x: Tensor, *weights: Tensor) -> Any:
            inputs = (dy, x, *weights)
            plain = [tf.stop_gradient(each) for each in inputs]
            results = self._backward(plain[0], plain[1], m, r, *plain[2:])

            def gradient(*outer: Tensor) -> Any:
                # no tape here: forward mode differentiates this function, and would not see a tape
                return self._second(outer, *inputs)

            return results, gradient

        inputs = (x, *weights)
        if not tf.executing_eagerly():  # forward mode fails for tensors of the surrounding graph
            inputs = tuple(map(tf.identity, inputs))
        return operation(dy, *inputs)


_graphs = functools.cache(_Graphs)


def _worth_compiling(x: Tensor) -> bool:
    if not x.shape.is_fully_defined() or 0 in x.shape:
        return False
    if not tf.executing_eagerly():  # the surrounding function was traced for this shape
        return True
    key = (*x.shape, x.dtype)
    if len(_compiled) < _MOST_COMPILED:
        _compiled.add(key)
    return key in _compiled
