"""What the tape holds of a tick, and how a value becomes one of its metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.clock.tape import encode
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

RESERVED = frozenset({"attempt", "rank", "tick", "beats"})


class TickRecord(msgspec.Struct, gc=False):
    """One line of the tape; floats that are not finite travel as text: "nan", "inf", "-inf"."""

    tick: int
    time_ns: int
    wall_ns: int
    beats: int
    phases: dict[str, int]
    metrics: dict[str, float | str]


def encode_tick(record: TickRecord) -> bytes:
    """The line of a tick."""
    line = encode(record)
    if b"null" in line:  # what JSON makes of a float that is not finite
        record.metrics = {name: _spelled(value) for name, value in record.metrics.items()}
        line = encode(record)
    return line


def check_names(metrics: Iterable[str]) -> None:
    """Raise ConfigError for a metric whose column the record needs itself."""
    for name in metrics:
        if name in RESERVED or name.endswith("_ns"):
            raise ConfigError(
                "a metric's name must not be one of the record's own "
                f"({', '.join(sorted(RESERVED))}, names ending in _ns)",
                got=repr(name),
            )


def plain_number(name: str, value: Any) -> float | int:
    """A metric's value as a Python number; ConfigError if it is not one."""
    item = getattr(value, "item", None)
    if item is not None:
        try:
            value = item()
        except (TypeError, ValueError, RuntimeError):
            value = None
    if not isinstance(value, int | float):
        raise ConfigError(
            "a metric must be one number (a Python number, or a tensor of one element)",
            got=f"{name} = a {type(value).__name__}",
        )
    return int(value) if isinstance(value, bool) else value


def _spelled(value: float | str) -> float | str:
    return value if isinstance(value, str) or math.isfinite(value) else str(value)
