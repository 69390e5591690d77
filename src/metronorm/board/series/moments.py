"""Where something that happened during a run stands on an axis of its charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metronorm.board.series.axes import begin_ns
from metronorm.board.series.recorded import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.board.series._arrays import Floats, Integers
    from metronorm.board.series.axes import Axis
    from metronorm.board.series.kept import Kept
    from metronorm.board.series.recorded import Recorded


class Moment(NamedTuple):
    """When something happened: in which tick of which attempt, and in ns since 1970."""

    attempt: int
    tick: int
    time_ns: int


class _Line(NamedTuple):
    """Ticks of one line, and where they stand."""

    attempt: int | None  # of ticks that were left behind
    ticks: Integers
    axis: Floats


def places_of(
    moments: Sequence[Moment], x: Axis, recorded: Recorded, kept: Kept
) -> list[float | None]:
    """Where moments stand on an axis; None: before its first tick.

    What happened before the first tick of an attempt stands where that attempt goes on. What
    happened in ticks that were left behind stands on their own line.

    Raises:
        ConfigError: there is no such axis, or the run counts nothing.
    """
    recorded.want(0)
    rows = Rows(recorded.history(0))
    if x == "time":
        return [moment.time_ns / 1e6 for moment in moments]
    if x == "elapsed":
        start = begin_ns(rows)
        return [float(moment.time_ns - start) for moment in moments]
    lines = [_Line(None, rows.base("tick"), kept.axis(x, 0))]
    for ghost in recorded.ghosts(0):
        own = Rows([ghost.piece])
        axis = kept.ghost_axis(x, own, 0)
        lines.insert(0, _Line(ghost.left.attempt, own.base("tick"), axis))
    found: list[float | None] = []
    for moment in moments:
        tick = max(moment.tick, recorded.firsts.get(moment.attempt, 1) - 1)
        if x == "tick":
            found.append(float(tick) if tick else None)
            continue
        line = next(it for it in lines if _has(it, moment.attempt, tick))
        row = int(np.searchsorted(line.ticks, tick, "right")) - 1
        found.append(float(line.axis[row]) if row >= 0 else None)
    return found


def _has(line: _Line, attempt: int, tick: int) -> bool:
    if line.attempt is None:
        return True
    return line.attempt == attempt and bool(line.ticks[0] <= tick <= line.ticks[-1])
