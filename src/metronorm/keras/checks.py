"""Checks of the arguments of our layers and of `Ticks`; each mistake is one ConfigError."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import keras

from metronorm.errors import ConfigError
from metronorm.scalars import as_integer, as_real

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


class AxisError(ConfigError, TypeError):
    """An axis is neither an integer nor a list or tuple of integers. Keras raises a TypeError."""


def checked_epsilon(epsilon: float) -> float:
    """Return `epsilon` as a float.

    Raises:
        ConfigError: it is not finite and positive.
    """
    number = as_real(epsilon)
    if number is None or not 0 < number < math.inf:
        raise ConfigError("epsilon must be finite and positive", got=repr(epsilon), fix="1e-3")
    return number


def checked_axis(axis: int | Sequence[int]) -> int | list[int]:
    """Return `axis` as an int of Python, or as a list of them.

    Raises:
        AxisError: it is neither an integer nor a list or tuple of integers.
    """
    if isinstance(axis, list | tuple):
        converted = [as_integer(each) for each in axis]
        integers = [each for each in converted if each is not None]
        if integers and len(integers) == len(converted):
            return integers
    elif (single := as_integer(axis)) is not None:
        return single
    raise AxisError(
        "Expected an int or a list/tuple of ints for the argument 'axis'", got=repr(axis), fix="-1"
    )


def checked_axes(axis: int | Sequence[int], shape: Sequence[int | None]) -> tuple[int, ...]:
    """Return the axes of an input of this shape, counted from 0 and in order.

    Raises:
        ConfigError: an axis does not exist, is given twice, or has no known size.
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
    """Check the dtype of a tensor.

    Raises:
        ConfigError: x does not hold real floating-point numbers of 16 bits or more.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype) or "float8" in dtype:
        raise ConfigError(
            "inputs must be floating-point numbers", got=dtype, fix='keras.ops.cast(x, "float32")'
        )


def from_saved(kind: type[T], config: dict[str, Any]) -> T:
    """Make a layer of this kind from its saved config.

    Raises:
        ConfigError: the config has arguments that the layer does not take.
    """
    try:
        return kind(**config)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a saved {kind.__name__} must hold arguments that it takes", got=str(error)
        ) from None


def checked_number(name: str, value: Any, *, least: float = 0, below: float = math.inf) -> float:
    """Return a hyper-parameter as a float.

    Raises:
        ConfigError: it is not a number, or not in [least, below).
    """
    number = as_real(value)
    if number is None or not least <= number < below:
        most = "" if below == math.inf else f" and below {below:g}"
        raise ConfigError(f"{name} must be at least {least:g}{most}", got=repr(value))
    return number


def checked_count(name: str, value: Any) -> int:
    """Return a number of beats or ticks as an int.

    Raises:
        ConfigError: it is not an integer, or below 1.
    """
    count = as_integer(value)
    if count is None or count < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1", got=repr(value))
    return count


def if_given(check: Callable[[str, Any], T], name: str, value: Any) -> T | None:
    """Return `check(name, value)`, or None if no value was given."""
    return None if value is None else check(name, value)


def checked_clips(clips: Mapping[str, Any], steps: int) -> dict[str, float | None]:
    """Return the limits of `CLIPS` as floats, None where one was not given.

    Args:
        clips: the limits by name.
        steps: the number of beats in a window.

    Raises:
        ConfigError: a limit is not a number, there is more than one, or a window has several beats.
    """
    given = {
        name: checked_number(name, limit) for name, limit in clips.items() if limit is not None
    }
    if len(given) > 1:
        raise ConfigError(f"only one of {', '.join(CLIPS)} can be set", got=", ".join(given))
    if given and steps > 1:
        raise ConfigError(
            "Ticks cannot clip the gradient of a window: it is part of the accumulated gradient",
            got=f"{', '.join(given)} with gradient_accumulation_steps={steps}",
            fix="one big batch; or keras.optimizers.SGD, which keeps a separate accumulator",
        )
    return {name: given.get(name) for name in clips}


def checked_rate(rate: Any) -> Any:
    """Return a learning rate as Keras takes it: a float, a schedule or a function.

    Raises:
        ConfigError: it is negative or not finite, or none of these.
    """
    if callable(rate):  # schedules are callable
        return rate
    return checked_number("learning_rate", rate)
