"""What became of a run's time, over all its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metronorm.runs.reader import Run


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run; the parts add up to `total`.

    `forward` moved the run on: ticks that its final parameters went through. `replayed` is ticks
    that a later attempt did again, or went back behind. `overhead` is what an attempt spent outside
    its ticks: starting, loading, closing. `down` is the time between attempts. Ranks run side by
    side: each is of the first rank that has it.
    """

    total: float
    forward: float
    replayed: float
    overhead: float
    down: float

    @property
    def share(self) -> float | None:
        """The share of the time that moved the run forward."""
        return self.forward / self.total if self.total else None


def goodput(run: Run) -> Goodput:
    """Sum up a run's time; an attempt lasts from its start to its last record."""
    spans = (
        run.events()
        .sql("select attempt, min(time_ns), max(time_ns) from events group by attempt")
        .fetchall()
    )
    columns = ("attempt", "rank", "time_ns", "wall_ns")
    full = run.ticks("full").only(*columns)
    ticks = full.sql(
        """
        select attempt, min(time_ns::HUGEINT - wall_ns), max(time_ns), sum(wall_ns)::DOUBLE
        from ticks
        where rank = (select min(rank) from ticks t where t.attempt = ticks.attempt)
        group by attempt"""
    ).fetchall()
    bounds: dict[int, tuple[int, int]] = {}
    for attempt, first, last, *_ in [*spans, *ticks]:
        begin, end = bounds.get(attempt, (first, last))
        bounds[attempt] = min(begin, first), max(end, last)
    spent = sum(row[3] for row in ticks)
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
    lived = sum(end - begin for begin, end in bounds.values())
    total = max(end for _, end in bounds.values()) - min(begin for begin, _ in bounds.values())
    return Goodput(
        total=total / 1e9,
        forward=forward / 1e9,
        replayed=(spent - forward) / 1e9,
        overhead=(lived - spent) / 1e9,
        down=(total - lived) / 1e9,
    )
