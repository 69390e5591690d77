"""The losses of two runs where both have done as many ticks, read as many tokens, spent as long."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from metronorm.runs.comparing.times import per_tick

if TYPE_CHECKING:
    from metronorm.runs.table import Table

Axis = Literal["ticks", "tokens", "seconds"]

BINS = 2_000
STRETCH = 1 / 20
# losses that differ by less than so many standard errors are the same
NEAR = 1.5
# of normally distributed noise the median of absolute deviations is this much less than sigma
SIGMAS_PER_MAD = 1.4826
QUARTERS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class LossAt:
    """The smoothed losses of both where they are `at` on an axis, the same place for both.

    The place is in ticks, in tokens or in seconds of time in ticks. Smoothed is the median of the
    last twentieth of the way that both have gone (in seconds, a twentieth of the ticks at least:
    one slow tick may take as long), or, where none was logged there, the newest loss before. A
    loss that is not finite counts as infinite; None if there was none yet.
    """

    axis: Axis
    at: float
    a: float | None
    b: float | None


@dataclass(frozen=True)
class Reached:
    """When both first had the smoothed loss that one of them ended with; None is never.

    As low as that is what is not above it by more than the noise of two smoothed losses.
    """

    end_of: Literal["A", "B"]
    loss: float
    a_seconds: float | None
    b_seconds: float | None


@dataclass(frozen=True)
class Course:
    """A loss over a run: places on every axis, rising, and the loss there."""

    places: dict[Axis, list[float]]
    ends: dict[Axis, float]
    losses: list[float]

    def smoothed(self, axis: Axis, at: float, stretch: float, ticks: float = 0) -> float | None:
        """The median of the losses behind `at - stretch` and up to `at`, of `ticks` at least."""
        places = self.places[axis]
        end = bisect_right(places, at)
        if not end:
            return None
        passed = self.places["ticks"]
        begin = min(
            bisect_right(places, at - stretch),
            bisect_right(passed, passed[end - 1] - ticks),
            end - 1,
        )
        return median(self.losses[begin:end])

    def noise(self, ticks: float) -> float:
        """The standard error of the median of the losses of so many ticks.

        By what lies off the line between its neighbours, so a loss that falls has none by that.
        """
        late = self.losses[len(self.losses) // 2 :]  # noise often falls with the loss
        known = [loss for loss in late if math.isfinite(loss)]
        if len(known) < 3:
            return 0.0
        bends = [abs(a - 2 * b + c) for a, b, c in zip(known, known[1:], known[2:], strict=False)]
        sigma = SIGMAS_PER_MAD * median(bends) / math.sqrt(6)
        count = max(len(self.losses) * ticks / self.ends["ticks"], 1.0)
        return 1.25 * sigma / math.sqrt(count)


def read_course(ticks: Table, metric: str) -> Course:
    """The course of a metric, in at most `BINS` stretches of ticks."""
    tokens = ["tokens"] * ("tokens" in ticks.metrics)
    ticks = ticks.only("attempt", "rank", "tick", "wall_ns", *tokens, metric)
    rows = ticks.sql(
        f"""with per_tick as ({per_tick(ticks, (), metric)}), running as (
                select tick, sum(tokens) over so_far as tokens,
                       sum(wall) over so_far / 1e9 as seconds,
                       if(isfinite(value), value, if(value is null, null, 'inf'::DOUBLE)) as value,
                       (row_number() over (order by tick) - 1)
                           * least({BINS}, count(*) over ()) // count(*) over () as bin
                from per_tick window so_far as (order by tick))
            select max(tick), max(tokens), max(seconds), median(value)
            from running group by bin order by bin"""
    ).fetchall()
    axes: list[Axis] = ["ticks", "seconds"]
    if "tokens" in ticks.metrics:
        axes.append("tokens")
    column: dict[Axis, int] = {"ticks": 0, "tokens": 1, "seconds": 2}
    seen = [row for row in rows if row[3] is not None]
    return Course(
        places={axis: [float(row[column[axis]]) for row in seen] for axis in axes},
        ends={axis: float(rows[-1][column[axis]]) for axis in axes},
        losses=[row[3] for row in seen],
    )


def losses_at(a: Course, b: Course) -> list[LossAt]:
    """The losses at the quarters of the way that both have gone, on each axis that both have."""
    found = []
    axes: tuple[Axis, ...] = ("ticks", "tokens", "seconds")
    for axis in axes:
        common = min(a.ends.get(axis, 0.0), b.ends.get(axis, 0.0))
        if common <= 0:
            continue
        ticks = _ticks(a, b) if axis == "seconds" else 0.0
        for quarter in QUARTERS:
            at = common * quarter
            at = at if axis == "seconds" else float(math.floor(at))
            stretch = common * STRETCH
            losses = (course.smoothed(axis, at, stretch, ticks) for course in (a, b))
            found.append(LossAt(axis, at, *losses))
    return found


def reached(a: Course, b: Course) -> list[Reached]:
    """When both first had the loss that A ended with, and the one that B ended with."""
    stretch = min(a.ends["seconds"], b.ends["seconds"]) * STRETCH
    ticks = _ticks(a, b)
    found = []
    ends: tuple[tuple[Literal["A", "B"], Course], ...] = (("A", a), ("B", b))
    for name, course in ends:
        loss = course.smoothed("seconds", course.ends["seconds"], stretch, ticks)
        if loss is not None and math.isfinite(loss):
            near = (NEAR * math.hypot(course.noise(ticks), each.noise(ticks)) for each in (a, b))
            when = (_first(each, loss + next(near), stretch, ticks) for each in (a, b))
            found.append(Reached(name, loss, *when))
    return found


def _ticks(a: Course, b: Course) -> float:
    return min(a.ends["ticks"], b.ends["ticks"]) * STRETCH


def _first(course: Course, loss: float, stretch: float, ticks: float) -> float | None:
    """Seconds until the smoothed loss was first as low as `loss`."""
    for seconds, tick in zip(course.places["seconds"], course.places["ticks"], strict=True):
        # before that the stretch is not full: a single low loss would do
        if seconds >= stretch and tick >= ticks:
            smoothed = course.smoothed("seconds", seconds, stretch, ticks)
            if smoothed is not None and smoothed <= loss:
                return seconds
    return None
