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

    A drop-in for `keras.layers.LayerNormalization`: same arguments, weights and config. Sums are
    float32 or better, also under a policy of mixed precision; rows of a large mean lose nothing.
    One operation with its own gradient, which keeps the input and two numbers for every row.

    Args:
        axis: what to normalize over.
        epsilon: added to the variance, inside the root; finite and positive.
        center: learn `beta`.
        scale: learn `gamma`.
        **kwargs: initializers, regularizers and constraints of `beta` and `gamma`, and what every
            layer takes, as of `keras.layers.LayerNormalization`.

    Raises:
        ConfigError: an epsilon that cannot work, arguments that are not known; when built or
            called, an axis that is not there or of no known size, integer inputs. An axis that is
            neither an integer nor a list or tuple of them: one that is a TypeError too, as Keras'.
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
        """Make the weights for inputs of this shape; every normalized axis must have a size."""
        self.axis = _in_order(self.axis, checked_axes(self.axis, input_shape))
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        """Normalize inputs, any floating dtype."""
        y = normalize(inputs, self.gamma, self.beta, self.axis, self.epsilon, centred=True)
        return keras.ops.cast(y, self.compute_dtype)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The layer that was saved."""
        return from_saved(cls, config)


@keras.saving.register_keras_serializable(package="metronorm")
class RMSNormalization(keras.layers.RMSNormalization):  # type: ignore[misc]
    """Root mean square normalization (Zhang and Sennrich, 2019, arXiv:1910.07467).

    A drop-in for `keras.layers.RMSNormalization`, in all else like `LayerNormalization`.

    Args:
        axis: what to normalize over.
        epsilon: added to the mean square, inside the root; finite and positive.
        **kwargs: what every layer takes.

    Raises:
        ConfigError: as `LayerNormalization`.
    """

    axis: int | Sequence[int]

    def __init__(
        self, axis: int | Sequence[int] = -1, epsilon: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(axis=checked_axis(axis), epsilon=checked_epsilon(epsilon), **kwargs)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights for inputs of this shape; every normalized axis must have a size."""
        axes = checked_axes(self.axis, input_shape)
        self.axis = _in_order(self.axis, axes)
        self.scale = self.add_weight(
            name="scale",
            shape=tuple(input_shape[axis] for axis in axes),
            initializer="ones",
            autocast=False,  # Keras' own rounds it to the half precision of a policy
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Normalize inputs, any floating dtype."""
        y = normalize(inputs, self.scale, None, self.axis, self.epsilon, centred=False)
        return keras.ops.cast(y, self.compute_dtype)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The layer that was saved."""
        return from_saved(cls, config)


def _in_order(axis: int | Sequence[int], found: tuple[int, ...]) -> list[int]:
    """The axes in the order of their weights' sizes; from the end, where all were given so."""
    axes = [axis] if isinstance(axis, int) else list(axis)
    mixed = min(axes) < 0 <= max(axes)
    return list(found) if mixed else sorted(axes)
