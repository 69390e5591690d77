"""What the arguments of our layers and of `Ticks` must be; each mistake is one ConfigError."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

import keras

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


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


def check_number(name: str, value: Any, *, least: float = 0, below: float = math.inf) -> None:
    """Refuse a hyper-parameter outside [least, below).

    Raises:
        ConfigError: it is outside, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) < below:
        most = "" if below == math.inf else f" and below {below:g}"
        raise ConfigError(f"{name} must be at least {least:g}{most}", got=repr(value))


def check_clips(clips: Mapping[str, Any], steps: int) -> None:
    """Refuse limits that are no numbers, more than one, or of a window's gradient.

    Raises:
        ConfigError: one of those.
    """
    given = {name: limit for name, limit in clips.items() if limit is not None}
    for name, limit in given.items():
        check_number(name, limit)
    if len(given) > 1:
        raise ConfigError(f"only one of {', '.join(CLIPS)} can be set", got=", ".join(given))
    if given and steps > 1:
        raise ConfigError(
            "Ticks has no gradient of a window to clip: it is added to what is carried",
            got=f"{', '.join(given)} with gradient_accumulation_steps={steps}",
            fix="one big batch; or keras.optimizers.SGD, which keeps an accumulator beside",
        )


def checked_rate(rate: Any) -> Any:
    """A learning rate as Keras takes it.

    Raises:
        ConfigError: it is negative, not finite, or none.
    """
    if callable(rate):  # schedules too
        return rate
    check_number("learning_rate", rate)
    return float(rate)
