"""The x axes over the ticks of a history: where each row stands.

| axis | value of a row | unit |
| --- | --- | --- |
| `tick` | its number | |
| `tokens` | what all ranks have counted until its end: tokens, examples, ... | that unit |
| `time` | when it ended | ms since 1970 |
| `elapsed` | the same, from the beginning of the first tick on | ns |
| `training` | the time of all ticks until its end: no pauses, no ticks done twice | ns |

Every axis ascends: where the clock of a machine was set back, time stands still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from metronorm.errors import ConfigError
from metronorm.runs.units import units_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.board.series._arrays import Floats
    from metronorm.board.series.recorded import Rows

Axis = Literal["tick", "tokens", "time", "elapsed", "training"]
AXES: tuple[Axis, ...] = get_args(Axis)


def unit_of(names: Sequence[str]) -> str | None:
    """What the axis `tokens` counts, from the names of a run's metrics; None: nothing known."""
    return next(iter(units_of(names)), None)


def begin_ns(rows: Rows) -> int:
    """When the first tick began, in nanoseconds since 1970; 0 without ticks."""
    time, wall = rows.base("time_ns"), rows.base("wall_ns")
    return int(time[0] - wall[0]) if len(time) else 0


def positions(axis: Axis, rows: Rows, others: Sequence[Rows], unit: str | None) -> Floats:
    """Where each row stands on an axis.

    Args:
        axis: the axis.
        rows: the history of a rank.
        others: the histories of the other ranks; needed for `tokens`.
        unit: what `tokens` counts.

    Raises:
        ConfigError: there is no such axis, or the run counts nothing.
    """
    if axis not in AXES:
        raise ConfigError("an axis must be one of " + ", ".join(AXES), got=repr(axis))
    if axis == "tick":
        return rows.base("tick").astype(np.float64)
    if axis == "training":
        return np.cumsum(np.maximum(rows.base("wall_ns"), 0)).astype(np.float64)
    if axis == "tokens":
        if unit is None:
            raise ConfigError(
                "the axis tokens needs a metric that counts",
                got="a run without tokens, examples, images, ...",
                fix="another axis",
            )
        return np.cumsum(_counts(rows, others, unit))
    time = np.maximum.accumulate(rows.base("time_ns"))
    return (time - begin_ns(rows)).astype(np.float64) if axis == "elapsed" else time / 1e6


def _counts(rows: Rows, others: Sequence[Rows], unit: str) -> Floats:
    """What the ranks have counted in each tick."""
    counts = _count(rows, unit)
    ticks = rows.base("tick")
    for other in others:
        own = other.base("tick")
        at = np.searchsorted(ticks, own)
        there = at < len(ticks)
        there[there] = ticks[at[there]] == own[there]
        counts[at[there]] += _count(other, unit)[there]
    return counts


def _count(rows: Rows, unit: str) -> Floats:
    counts = rows.column(unit)
    return np.where(np.isfinite(counts) & (counts > 0), counts, 0.0)
