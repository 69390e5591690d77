"""What the arguments of a normalization must be; each mistake is one ConfigError."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import keras

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def check_epsilon(epsilon: float) -> None:
    """ConfigError unless it is finite and positive."""
    number = isinstance(epsilon, int | float) and not isinstance(epsilon, bool)
    if not number or not 0 < epsilon < math.inf:
        raise ConfigError("epsilon must be finite and positive", got=repr(epsilon), fix="1e-3")


def check_axis(axis: int | Sequence[int]) -> None:
    """ConfigError unless it is a whole number or several."""
    axes = axis if isinstance(axis, list | tuple) else [axis]
    if not axes or not all(isinstance(each, int) and not isinstance(each, bool) for each in axes):
        raise ConfigError("axis must be an integer, or a list of them", got=repr(axis), fix="-1")


def checked_axes(axis: int | Sequence[int], shape: Sequence[int | None]) -> tuple[int, ...]:
    """The axes of an input of this shape, from 0 and in order.

    Raises:
        ConfigError: an axis that is not there, or is there twice, or whose size is not known.
    """
    axes = [axis] if isinstance(axis, int) else list(axis)
    rank = len(shape)
    if not all(-rank <= each < rank for each in axes):
        raise ConfigError(
            f"axis must be one of the input's {rank}", got=f"{axis} of an input of shape {shape}"
        )
    found = sorted(each % rank for each in axes)
    if len(set(found)) < len(found):
        raise ConfigError("axes must differ", got=f"{axis} of an input of shape {shape}")
    for each in found:
        if not shape[each]:
            raise ConfigError(
                "the size of a normalized axis must be known, and at least 1",
                got=f"axis {each} of an input of shape {tuple(shape)}",
                fix="keras.Input(shape=...) with that size",
            )
    return tuple(found)


def check_floating(x: Any) -> None:
    """ConfigError unless x holds real floating-point numbers."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype) or "float8" in dtype:
        raise ConfigError(
            "inputs must be floating-point numbers", got=dtype, fix='keras.ops.cast(x, "float32")'
        )


def from_saved(kind: type[T], config: dict[str, Any]) -> T:
    """What was saved; ConfigError for a config with arguments that it does not take."""
    try:
        return kind(**config)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a saved {kind.__name__} must hold arguments that it takes", got=str(error)
        ) from None
