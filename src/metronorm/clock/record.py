"""What the tape holds of a tick, and how a value becomes one of its metrics."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from metronorm.errors import ConfigError


class TickRecord(msgspec.Struct, gc=False, omit_defaults=True):
    """One line of the tape; floats that are not finite travel as text: "nan", "inf", "-inf".

    `clock_ns` is what the clock itself cost in the tick. Without `phases` they were not measured.
    """

    tick: int
    time_ns: int
    wall_ns: int
    beats: int
    phases: dict[str, int]
    metrics: dict[str, float | str]
    clock_ns: int = 0
    arrival_ns: int | None = None


def spell_out(record: TickRecord) -> list[str]:
    """Make text of what JSON has no numbers for; the names of the metrics that are not finite."""
    found = []
    for name, value in record.metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            record.metrics[name] = str(value)
            found.append(name)
    return found


def plain_number(name: str, value: Any) -> float | int:
    """A metric's value as a Python number; ConfigError if it is not one."""
    item = getattr(value, "item", None) or getattr(value, "numpy", None)
    if item is not None:
        try:
            value = item()
            value = getattr(value, "item", lambda: value)()
        except (TypeError, ValueError, RuntimeError):
            value = None
    if not isinstance(value, int | float):
        raise ConfigError(
            "a metric must be one number (a Python number, or a tensor of one element)",
            got=f"{name} = a {type(value).__name__}",
        )
    return int(value) if isinstance(value, bool) else value


def check_one_element(name: str, value: Any) -> None:
    """Raise ConfigError for a tensor on a device that does not hold one number."""
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1 or getattr(value, "is_complex", lambda: False)():
        raise ConfigError(
            "a metric must be one number (a Python number, or a tensor of one element)",
            got=f"{name} = a {type(value).__name__} of shape {shape}",
        )
