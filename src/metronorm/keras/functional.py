"""The normalizations as functions: they check, move axes, and call the backend's operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from metronorm.errors import ConfigError
from metronorm.keras.checks import check_floating, checked_axes, checked_axis, checked_epsilon

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Tensor = Any


def layer_normalization(
    inputs: Tensor,
    epsilon: float = 1e-3,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    axis: int | Sequence[int] = -1,
) -> Tensor:
    """Compute (x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta, over the axes.

    Ba, Kiros and Hinton (2016), arXiv:1607.06450. Sums are float32 or better.

    Args:
        inputs: a tensor of the backend or a symbolic tensor of Keras, of any floating dtype.
        epsilon: the number that is added to the variance, inside the root; finite and positive.
        gamma: a tensor with the sizes of the normalized axes, in order; None: no factor.
        beta: a tensor with the same sizes; None: nothing is added.
        axis: the axis or axes that are normalized over.

    Returns:
        A tensor of the shape and dtype of the inputs.

    Raises:
        ConfigError: epsilon is not positive, an axis does not exist or has no known size, the
            inputs are integers, or a weight has another shape.
    """
    return _Normalize(axis, epsilon, centred=True)(inputs, gamma, beta)


def rms_normalization(
    inputs: Tensor,
    epsilon: float = 1e-6,
    scale: Tensor | None = None,
    axis: int | Sequence[int] = -1,
) -> Tensor:
    """Compute x / sqrt(mean(x²) + epsilon) * scale, over the axes.

    Arguments and errors are those of `layer_normalization`.

    Zhang and Sennrich (2019), arXiv:1910.07467.
    """
    return _Normalize(axis, epsilon, centred=False)(inputs, scale, None)


@keras.saving.register_keras_serializable(package="metronorm", name="Normalize")
class _Normalize(keras.Operation):  # type: ignore[misc]
    """The operation behind the functions; it takes symbolic tensors, as `keras.ops` do."""

    def __init__(self, axis: int | Sequence[int], epsilon: float, *, centred: bool) -> None:
        super().__init__()
        self._axis, self._epsilon = checked_axis(axis), checked_epsilon(epsilon)
        self._centred = centred

    def call(self, inputs: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        return normalize(inputs, gamma, beta, self._axis, self._epsilon, centred=self._centred)

    def compute_output_spec(
        self, inputs: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> keras.KerasTensor:
        check_floating(inputs)
        checked_axes(self._axis, inputs.shape)
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def normalize(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int | Sequence[int],
    epsilon: float,
    *,
    centred: bool,
) -> Tensor:
    """Normalize a tensor of the backend; arguments and errors as in `layer_normalization`.

    Where the normalized axes are not the last ones, they are moved to the end and back.
    """
    x = ops.convert_to_tensor(x)
    check_floating(x)
    axes = checked_axes(axis, x.shape)
    sizes = tuple(x.shape[each] for each in axes)
    gamma, beta = _checked("gamma", gamma, sizes), _checked("beta", beta, sizes)
    rest = [each for each in range(len(x.shape)) if each not in axes]
    order = [*rest, *axes]
    is_ordered = order == sorted(order)
    moved = x if is_ordered else ops.transpose(x, order)
    y = _operation()(moved, sizes, gamma, beta, epsilon, centred=centred)
    return y if is_ordered else ops.transpose(y, [order.index(each) for each in range(len(order))])


def _checked(name: str, weight: Tensor | None, sizes: tuple[int, ...]) -> Tensor | None:
    if weight is None:
        return None
    if tuple(weight.shape) != sizes:
        raise ConfigError(
            f"{name} must have the sizes of the normalized axes, {sizes}", got=f"{weight.shape}"
        )
    return ops.convert_to_tensor(weight)


def _operation() -> Callable[..., Tensor]:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from metronorm.keras.norm_tensorflow import norm
    elif backend == "jax":
        from metronorm.keras.norm_jax import norm
    elif backend == "torch":
        from metronorm.keras.norm_torch import norm
    else:
        raise ConfigError(
            "Keras' backend must be tensorflow, jax or torch", got=backend, fix="KERAS_BACKEND"
        )
    return norm
