"""Goodput: how a run spent its time, over all its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metronorm.runs.reader import Run


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run; the five parts add up to `total`.

    | part | seconds |
    | --- | --- |
    | `forward` | of ticks that led to the final parameters (the effective history) |
    | `replayed` | of ticks that a resume threw away: a later attempt resumed before them |
    | `branched` | of ticks that a branch left behind, and of the pause before it, as was chosen |
    | `overhead` | of attempts outside of their ticks: starting, loading, closing |
    | `down` | between the attempts |

    Ranks run side by side, so the seconds of an attempt are those of its first rank.
    """

    total: float
    forward: float
    replayed: float
    overhead: float
    down: float
    branched: float = 0.0

    @property
    def share(self) -> float | None:
        """`forward` of the time without `branched`; None for a run without time."""
        whole = self.total - self.branched
        return self.forward / whole if whole else None


def goodput(run: Run) -> Goodput:
    """Sum up the time of a run; an attempt lasts from its start to its last record.

    Raises:
        RunError: a file of the run may not be read.
    """
    spans = (
        run.events()
        .sql("select attempt, min(time_ns), max(time_ns) from events group by attempt")
        .fetchall()
    )
    columns = ("attempt", "rank", "tick", "time_ns", "wall_ns")
    full = run.ticks("full").only(*columns)
    branches = [stretch for stretch in run.left_behind() if stretch.by.is_branch]
    left = " or ".join(stretch.condition for stretch in branches) or "false"
    ticks = full.sql(
        f"""
        select attempt, min(time_ns::HUGEINT - wall_ns), max(time_ns), sum(wall_ns)::DOUBLE,
               coalesce(sum(wall_ns) filter ({left}), 0)::DOUBLE
        from ticks
        where rank = (select min(rank) from ticks t where t.attempt = ticks.attempt)
        group by attempt"""
    ).fetchall()
    bounds: dict[int, tuple[int, int]] = {}
    for attempt, first, last, *_ in [*spans, *ticks]:
        begin, end = bounds.get(attempt, (first, last))
        bounds[attempt] = min(begin, first), max(end, last)
    spent = sum(row[3] for row in ticks)
    branched = sum(row[4] for row in ticks)
    forward = (
        run.ticks()
        .only(*columns)
        .sql(
            """
        select coalesce(sum(wall_ns), 0)::DOUBLE from ticks
        where rank = (select min(rank) from ticks t where t.attempt = ticks.attempt)"""
        )
        .fetchall()[0][0]
    )
    if not bounds:
        return Goodput(0.0, 0.0, 0.0, 0.0, 0.0)
    running = sum(end - begin for begin, end in bounds.values())
    total = max(end for _, end in bounds.values()) - min(begin for begin, _ in bounds.values())
    pauses = sum(
        _pause(bounds, attempt) for attempt in {stretch.by.attempt for stretch in branches}
    )
    return Goodput(
        total=total / 1e9,
        forward=forward / 1e9,
        replayed=(spent - forward - branched) / 1e9,
        overhead=(running - spent) / 1e9,
        down=(total - running - pauses) / 1e9,
        branched=(branched + pauses) / 1e9,
    )


def _pause(bounds: dict[int, tuple[int, int]], attempt: int) -> int:
    """The nanoseconds between an attempt and the one before."""
    before = [end for number, (_, end) in bounds.items() if number < attempt]
    return max(bounds[attempt][0] - max(before), 0) if before and attempt in bounds else 0
