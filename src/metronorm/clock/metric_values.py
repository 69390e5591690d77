"""How a value that is logged becomes a number of the record."""

from __future__ import annotations

import math
import operator
import sys
from decimal import Decimal
from numbers import Real
from typing import Any

from metronorm.errors import ConfigError
from metronorm.store.schema import LARGEST


def check_beats(value: Any) -> int:
    """How many beats a tick has; ConfigError if that is no positive integer of 64 bits."""
    try:
        beats = operator.index(value)
    except TypeError:
        beats = 0
    if not 0 < beats <= LARGEST:
        raise ConfigError("beats must be a positive integer", got=repr(value))
    return beats


def plain_number(name: str, value: Any) -> float | int:
    """A metric's value as a Python number; ConfigError if it is not one.

    A value that NumPy has masked is NaN: there is none.
    """
    if _is_masked(value):
        return math.nan
    number = value
    item = getattr(value, "item", None) or getattr(value, "numpy", None)
    if getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M"):  # NumPy's times
        number = item = None
    if item is not None:
        try:
            number = item()
            number = getattr(number, "item", lambda: number)()
        except (TypeError, ValueError, RuntimeError):
            number = None
    if isinstance(number, int):
        return int(number) if -LARGEST <= number <= LARGEST else _as_float(number)
    if isinstance(number, Real | Decimal):  # also a Fraction, and floats longer than Python's
        return _as_float(number)
    raise _no_number(name, value)


def check_one_element(name: str, value: Any) -> None:
    """Raise ConfigError for a tensor on a device that does not hold one number."""
    if math.prod(getattr(value, "shape", ())) != 1 or getattr(value, "is_complex", bool)():
        raise _no_number(name, value)


def _no_number(name: str, value: Any) -> ConfigError:
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return ConfigError(
        "a metric must be one number (a Python number, or a tensor of one element)",
        got=f"{name} = a {type(value).__name__}{shape}",
    )


def _is_masked(value: Any) -> bool:
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    return isinstance(value, masked) and value.size == 1 and bool(value.mask)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except ValueError:  # a Decimal's signalling NaN
        return math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf
