"""Steps and times from other tools: the two axes of every record.

A record holds both in 64 bits, and times in nanoseconds since 1970. Other tools give seconds,
milliseconds, microseconds or nanoseconds, and do not say which. The size of the number shows it for
times since 1973, because the four ranges do not overlap before the year 2262, where 64 bits end.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from math import isfinite
from reprlib import repr as short
from typing import Any

from metronorm.errors import ConfigError

LAST = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = 10**17  # 1973-03-03 in nanoseconds; smaller numbers are seconds
_SECONDS = LAST // 10**9
_UNITS = {"milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}


def step_of(value: Any) -> int | None:
    """Return a step as an integer of 64 bits; None for anything else: NaN, 1.5, text, 2**63."""
    if isinstance(value, bool):
        return None
    try:
        step = int(value)
        exact = step == value
    except (TypeError, ValueError, OverflowError, ArithmeticError):
        return None
    return step if exact and -LAST - 1 <= step <= LAST else None


def require_step(value: Any) -> int:
    """Return the step that a training gives: an integer, or what `int` accepts, such as a tensor.

    Raises:
        ConfigError: it is not an integer of 64 bits.
    """
    try:
        step = int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        step = LAST + 1
    if not 1 - LAST <= step <= LAST:  # the clock counts one less before the tick begins
        raise ConfigError("a step must be an integer of 64 bits", got=short(value))
    return step


def time_of(value: Any) -> tuple[int, str] | None:
    """Return a time in nanoseconds since 1970, and the unit that it was given in.

    Args:
        value: a number, a `datetime`, or a date in ISO 8601; without a time zone it is in UTC.

    Returns:
        None if the value is not a time between 1970 and 2262.
    """
    if type(value) is float and 0 <= value < _SECONDS:  # the most frequent case
        return round(value * 1e9), "seconds"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
        return (ns, "dates") if 0 <= ns <= LAST else None
    if isinstance(value, bool):
        return None
    try:
        finite = isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not finite or value < 0:
        return None
    if value < _SECONDS:
        return round(value * 10**9), "seconds"
    for unit, size in _UNITS.items():
        ns = int(value) * size + round(
            value % 1 * size
        )  # separately, as a float has too few digits
        if _FIRST <= ns <= LAST:
            return ns, unit
    return None


class Times:
    """Reads the times of one run, and counts those that are not plain numbers of seconds."""

    def __init__(self) -> None:
        self._units: Counter[str] = Counter()
        self._unusable = 0
        self._example: Any = None

    def read(self, value: Any) -> int | None:
        """Return a time in nanoseconds since 1970; None if it is not one: use the time before."""
        found = time_of(value)
        if found is None:
            self._example = value if not self._unusable else self._example
            self._unusable += 1
            return None
        ns, unit = found
        if unit != "seconds":
            self._units[unit] += 1
        return ns

    def notices(self) -> list[str]:
        """Return what a reader of the run should know about its times, in sentences."""
        found = [
            f"times read as {unit} since 1970, because of their size: {count:,}"
            for unit, count in self._units.items()
            if unit != "dates"
        ]
        if self._unusable:
            found.append(
                f"times left out that are not between 1970 and 2262: {self._unusable:,}, such as "
                f"{short(self._example)}; those values have the time of the value before"
            )
        return found
