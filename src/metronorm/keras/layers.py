"""`LayerNormalization` and `RMSNormalization` as layers of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import keras

from metronorm.errors import ConfigError
from metronorm.keras.checks import checked_axes, checked_axis, checked_epsilon, from_saved
from metronorm.keras.functional import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor = Any


@keras.saving.register_keras_serializable(package="metronorm")
class LayerNormalization(keras.layers.LayerNormalization):  # type: ignore[misc]
    """Layer normalization (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

    A drop-in for `keras.layers.LayerNormalization` with the same arguments, weights and config.
    Sums are float32 or better, also under a mixed-precision policy; rows with a large mean keep
    their digits. The layer is one operation with its own gradient, which keeps the input and two
    numbers for every row.

    Args:
        axis: the axis or axes that are normalized over.
        epsilon: the number that is added to the variance, inside the root; finite and positive.
        center: whether to learn `beta`.
        scale: whether to learn `gamma`.
        **kwargs: initializers, regularizers and constraints of `beta` and `gamma`, and the
            arguments of every layer, as in `keras.layers.LayerNormalization`.

    Raises:
        ConfigError: epsilon cannot work or an argument is not known; when the layer is built or
            called, an axis does not exist or has no known size, or the inputs are integers.
        AxisError: the axis is neither an integer nor a list or tuple of integers. The error is a
            ConfigError, and the TypeError that Keras raises.
    """

    axis: int | Sequence[int]

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **kwargs: Any,
    ) -> None:
        axis, epsilon = checked_axis(axis), checked_epsilon(epsilon)
        if kwargs.pop("rms_scaling", False):
            raise ConfigError(
                "layer normalization must subtract the mean",
                got="rms_scaling=True, which divides by the deviation and subtracts nothing",
                fix="metronorm.keras.RMSNormalization",
            )
        super().__init__(axis=axis, epsilon=epsilon, center=center, scale=scale, **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for inputs of this shape; every normalized axis must have a size.

        Raises:
            ConfigError: an axis does not exist or has no known size.
        """
        self.axis = _in_order(self.axis, checked_axes(self.axis, input_shape))
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        """Normalize inputs of any floating dtype; the output has the layer's compute dtype.

        Raises:
            ConfigError: the inputs are not floating-point numbers.
        """
        y = normalize(inputs, self.gamma, self.beta, self.axis, self.epsilon, centred=True)
        return keras.ops.cast(y, self.compute_dtype)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the layer that was saved.

        Raises:
            ConfigError: the config has arguments that the layer does not take.
        """
        return from_saved(cls, config)


@keras.saving.register_keras_serializable(package="metronorm")
class RMSNormalization(keras.layers.RMSNormalization):  # type: ignore[misc]
    """Root mean square normalization (Zhang and Sennrich, 2019, arXiv:1910.07467).

    A drop-in for `keras.layers.RMSNormalization`; all else is as in `LayerNormalization`.

    Args:
        axis: the axis or axes that are normalized over.
        epsilon: the number that is added to the mean square, inside the root; finite and positive.
        **kwargs: the arguments of every layer.

    Raises:
        ConfigError: as in `LayerNormalization`.
    """

    axis: int | Sequence[int]

    def __init__(
        self, axis: int | Sequence[int] = -1, epsilon: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(axis=checked_axis(axis), epsilon=checked_epsilon(epsilon), **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for inputs of this shape; every normalized axis must have a size.

        Raises:
            ConfigError: an axis does not exist or has no known size.
        """
        axes = checked_axes(self.axis, input_shape)
        self.axis = _in_order(self.axis, axes)
        self.scale = self.add_weight(
            name="scale",
            shape=tuple(input_shape[axis] for axis in axes),
            initializer="ones",
            autocast=False,  # Keras' layer rounds the scale to a policy's half precision
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Normalize inputs of any floating dtype; the output has the layer's compute dtype.

        Raises:
            ConfigError: the inputs are not floating-point numbers.
        """
        y = normalize(inputs, self.scale, None, self.axis, self.epsilon, centred=False)
        return keras.ops.cast(y, self.compute_dtype)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the layer that was saved.

        Raises:
            ConfigError: the config has arguments that the layer does not take.
        """
        return from_saved(cls, config)


def _in_order(axis: int | Sequence[int], found: tuple[int, ...]) -> list[int]:
    """Return the axes in the order of their weights' sizes, negative if all were given so."""
    axes = [axis] if isinstance(axis, int) else list(axis)
    mixed = min(axes) < 0 <= max(axes)
    return list(found) if mixed else sorted(axes)
