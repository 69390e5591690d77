"""The losses of two runs at equal ticks, at equal tokens and after equal time.

Where a higher value is better, as of an accuracy, a `Course` has the negative values: then lower is
better everywhere here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from metronorm.runs.comparing.times import per_tick
from metronorm.runs.trend import SIGMAS_PER_MAD

if TYPE_CHECKING:
    from metronorm.runs.table import Table

Axis = Literal["ticks", "tokens", "seconds"]

BINS = 2_000
STRETCH = 1 / 20
# Losses that differ by less than this number of standard errors count as equal.
NEAR = 1.5
QUARTERS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class LossAt:
    """The smoothed losses of both runs at the same place `at` of an axis.

    The axis counts ticks, tokens, or seconds of time in ticks. The smoothed loss is the median over
    the last twentieth of the length that both runs have. In seconds it covers at least a twentieth
    of the ticks, because one slow tick may take that long. Without a loss in that stretch it is
    the newest loss before it. A loss that is not finite counts as infinitely bad. None: no loss
    yet.
    """

    axis: Axis
    at: float
    a: float | None
    b: float | None


@dataclass(frozen=True)
class Reached:
    """When both runs first reached the smoothed loss at the end of one of them; None is never.

    A loss is reached if the smoothed loss is not worse by more than the noise of two smoothed
    losses. Times are in seconds.
    """

    end_of: Literal["A", "B"]
    loss: float
    a_seconds: float | None
    b_seconds: float | None


@dataclass(frozen=True)
class LastValues:
    """The smoothed metric of both runs after equal ticks, and whether noise leaves a difference."""

    ticks: float
    a: float
    b: float
    differs: bool


@dataclass(frozen=True)
class Course:
    """A loss over a run: rising places on every axis, the loss there, and where each axis ends.

    `sign` is -1 if `losses` are the negative values of the metric.
    """

    places: dict[Axis, list[float]]
    ends: dict[Axis, float]
    losses: list[float]
    sign: Literal[1, -1] = 1

    def smoothed(self, axis: Axis, at: float, stretch: float, ticks: float = 0) -> float | None:
        """The median of the losses from `at - stretch` to `at`, over at least `ticks` ticks."""
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
        """The standard error of the median of the losses of this number of ticks.

        It is estimated from the distance of each loss to the line between its neighbours, so a
        steady fall adds no noise.
        """
        late = self.losses[len(self.losses) // 2 :]  # the noise often falls with the loss
        known = [loss for loss in late if math.isfinite(loss)]
        if len(known) < 3:
            return 0.0
        bends = [abs(a - 2 * b + c) for a, b, c in zip(known, known[1:], known[2:], strict=False)]
        sigma = SIGMAS_PER_MAD * median(bends) / math.sqrt(6)
        count = max(len(self.losses) * ticks / self.ends["ticks"], 1.0)
        return 1.25 * sigma / math.sqrt(count)


def read_course(ticks: Table, metric: str, sign: Literal[1, -1] = 1) -> Course:
    """Read a metric, in at most `BINS` stretches of ticks.

    Args:
        ticks: the ticks of a run.
        metric: the name of the metric.
        sign: -1 if higher values are better.
    """
    tokens = ["tokens"] * ("tokens" in ticks.metrics)
    ticks = ticks.only("attempt", "rank", "tick", "wall_ns", *tokens, metric)
    rows = ticks.fetch(
        f"""with per_tick as ({per_tick(ticks, (), metric)}), running as (
                select tick, sum(tokens) over so_far as tokens,
                       sum(wall) over so_far / 1e9 as seconds,
                       if(isfinite(value), {sign} * value,
                          if(value is null, null, 'inf'::DOUBLE)) as value,
                       (row_number() over (order by tick) - 1)
                           * least({BINS}, count(*) over ()) // count(*) over () as bin
                from per_tick window so_far as (order by tick))
            select max(tick), max(tokens), max(seconds), median(value)
            from running group by bin order by bin"""
    )
    axes: list[Axis] = ["ticks", "seconds"]
    if "tokens" in ticks.metrics:
        axes.append("tokens")
    column: dict[Axis, int] = {"ticks": 0, "tokens": 1, "seconds": 2}
    seen = [row for row in rows if row[3] is not None]
    return Course(
        places={axis: [float(row[column[axis]]) for row in seen] for axis in axes},
        ends={axis: float(rows[-1][column[axis]]) for axis in axes},
        losses=[row[3] for row in seen],
        sign=sign,
    )


def losses_at(a: Course, b: Course) -> list[LossAt]:
    """The losses at the quarters of the length that both runs have, on each axis of both."""
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
            losses = (_signed(course, axis, at, stretch, ticks) for course in (a, b))
            found.append(LossAt(axis, at, *losses))
    return found


def reached(a: Course, b: Course) -> list[Reached]:
    """When both runs first reached the last loss of A, and the last loss of B."""
    stretch = min(a.ends["seconds"], b.ends["seconds"]) * STRETCH
    ticks = _ticks(a, b)
    found = []
    ends: tuple[tuple[Literal["A", "B"], Course], ...] = (("A", a), ("B", b))
    for name, course in ends:
        loss = course.smoothed("seconds", course.ends["seconds"], stretch, ticks)
        if loss is not None and math.isfinite(loss):
            near = (NEAR * math.hypot(course.noise(ticks), each.noise(ticks)) for each in (a, b))
            when = (_first(each, loss + next(near), stretch, ticks) for each in (a, b))
            found.append(Reached(name, course.sign * loss, *when))
    return found


def last_values(a: Course, b: Course) -> LastValues | None:
    """The metric after as many ticks as both runs have; None if it is not finite there."""
    ticks, stretch = min(a.ends["ticks"], b.ends["ticks"]), _ticks(a, b)
    first, second = (_signed(course, "ticks", ticks, stretch, 0.0) for course in (a, b))
    if first is None or second is None or not math.isfinite(first + second):
        return None
    near = NEAR * math.hypot(a.noise(stretch), b.noise(stretch))
    return LastValues(ticks, first, second, abs(second - first) > near)


def _signed(course: Course, axis: Axis, at: float, stretch: float, ticks: float) -> float | None:
    """The smoothed value of the metric itself."""
    value = course.smoothed(axis, at, stretch, ticks)
    return None if value is None else course.sign * value


def _ticks(a: Course, b: Course) -> float:
    return min(a.ends["ticks"], b.ends["ticks"]) * STRETCH


def _first(course: Course, loss: float, stretch: float, ticks: float) -> float | None:
    """The seconds until the smoothed loss was first as low as `loss`."""
    for seconds, tick in zip(course.places["seconds"], course.places["ticks"], strict=True):
        # earlier the stretch is not full, and a single low loss would count
        if seconds >= stretch and tick >= ticks:
            smoothed = course.smoothed("seconds", seconds, stretch, ticks)
            if smoothed is not None and smoothed <= loss:
                return seconds
    return None
