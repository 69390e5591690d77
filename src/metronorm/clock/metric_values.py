"""How a logged value becomes a number of the record."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

from metronorm.clock.device import fetcher
from metronorm.errors import ConfigError
from metronorm.scalars import as_integer
from metronorm.store.schema import LARGEST_INTEGER

if TYPE_CHECKING:
    from metronorm.clock.device import Device, PendingValue


def convert(metrics: dict[str, Any], device: Device | None) -> dict[str, PendingValue]:
    """Make Python numbers of values; values on an accelerator are returned, on their way.

    Args:
        metrics: values by name, replaced in place: by a number, or by None where the result has
            the name, so that the order of names stays.
        device: copies values from an accelerator; None: the value's own framework does.

    Raises:
        ConfigError: a value is not one number.
    """
    fetching = {}
    for name, value in metrics.items():
        fetch = fetcher(value, device)
        if fetch is None:
            metrics[name] = plain_number(name, value)
        else:
            check_one_element(name, value)
            fetching[name] = fetch(value)
            metrics[name] = None
    return fetching


def check_beats(value: Any) -> int:
    """The number of beats of a tick as an int.

    Raises:
        ConfigError: `value` is not a positive integer of 64 bits.
    """
    beats = as_integer(value)
    if beats is None or not 0 < beats <= LARGEST_INTEGER:
        raise ConfigError("beats must be a positive integer", got=repr(value))
    return beats


def plain_number(name: str, value: Any) -> float | int:
    """The value of a metric as a Python number; NaN for a value that NumPy has masked.

    Args:
        name: the metric's name, for the error.
        value: a Python number, or an object that holds one: an array or tensor of one element.

    Raises:
        ConfigError: `value` is not one number.
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
        return int(number) if -LARGEST_INTEGER <= number <= LARGEST_INTEGER else _as_float(number)
    if isinstance(number, Real | Decimal):  # also a Fraction, and floats longer than Python's
        return _as_float(number)
    raise _not_a_number(name, value)


def check_one_element(name: str, value: Any) -> None:
    """Check a tensor on a device by its shape and dtype, without its value.

    Raises:
        ConfigError: it does not have one element, or is complex.
    """
    if math.prod(getattr(value, "shape", ())) != 1 or getattr(value, "is_complex", bool)():
        raise _not_a_number(name, value)


def _not_a_number(name: str, value: Any) -> ConfigError:
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
