"""The times of a run for a comparison: sums over stretches of ticks, and their resamples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from metronorm.runs.comparing.bootstrap import block_length, interval, resampled_sums
from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.runs.table import Table

BINS = 1_000
RESAMPLES = 1_000
LEVELS = 200  # quantiles of the tick time
ROUNDING = 1e-9


@dataclass(frozen=True)
class Measure:
    """A figure of both runs, and the ratio of B to A.

    `low` and `high` are the ends of the 95% interval of `ratio`; they are None if a run has only
    one such figure. `ratio` is infinite if only A's figure is 0.
    """

    a: float
    b: float
    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the whole interval lies on one side of 1."""
        if self.low is None or self.high is None:
            return False
        return self.low > 1 + ROUNDING or self.high < 1 - ROUNDING


@dataclass(frozen=True)
class Figure:
    """A figure of a run, the figure of each resample (nan: none), and the number of blocks."""

    value: float
    resampled: list[float]
    blocks: float


def measure(a: Figure, b: Figure) -> Measure:
    """The ratio of two figures with its interval."""
    ratio = ratio_of(a.value, b.value)
    pairs = zip(a.resampled, b.resampled, strict=True)
    ratios = [ratio_of(x, y) for x, y in pairs if not (math.isnan(x) or math.isnan(y))]
    if len(ratios) < RESAMPLES // 2:  # too few to show the spread
        return Measure(a.value, b.value, ratio)
    ends = interval(ratio, ratios, min(a.blocks, b.blocks))
    return Measure(a.value, b.value, ratio, *ends)


def ratio_of(a: float, b: float) -> float:
    """B over A; 1 if they are equal, also at 0."""
    return 1.0 if a == b else b / a if a else math.inf


def per_tick(ticks: Table, phases: Sequence[str] = (), metric: str | None = None) -> str:
    """SQL with one row per tick of all ranks: `tick, attempt, wall, tokens, value, sampled, pN`.

    `wall` is the time of the slowest rank, `tokens` the sum of all ranks, `pN` (the N-th phase) and
    `value` (the metric) the mean of the ranks. A phase that a sampled tick did not enter took 0 ns.
    """
    tokens, value, sampled = "0", "null", "false"
    if "tokens" in ticks.metrics:
        tokens = "coalesce(sum(tokens) filter (where isfinite(tokens)), 0)"
    if metric is not None:
        value = f"avg({identifier(metric)} order by rank)"
    if phases:
        sampled = "count(unattributed_ns) > 0"
    # rounded to whole numbers, so that the sum does not depend on the order of adding
    times = [
        f"round(avg(coalesce({identifier(phase + '_ns')}, 0))"
        f" filter (where unattributed_ns is not null)) as p{number}"
        for number, phase in enumerate(phases)
    ]
    columns = [
        "tick",
        "max(attempt) as attempt",
        "max(wall_ns)::DOUBLE as wall",
        f"{tokens}::DOUBLE as tokens",
        f"{value}::DOUBLE as value",
        f"{sampled} as sampled",
        *times,
    ]
    return f"select {', '.join(columns)} from ticks group by tick"


@dataclass(frozen=True)
class Sums:
    """Columns summed over all ticks, and over every resample of them."""

    totals: dict[str, float]
    resampled: dict[str, list[float]]
    blocks: float

    def quotient(self, above: str, below: str = "ticks", scale: float = 1.0) -> Figure:
        """A column's sum over another's, times `scale`."""
        others = map(_quotient, self.resampled[above], self.resampled[below])
        return Figure(
            scale * _quotient(self.totals[above], self.totals[below]),
            [scale * other for other in others],
            self.blocks,
        )


@dataclass(frozen=True)
class Times:
    """The tick times of a run after warm-up.

    `sums` has the columns `ticks`, `wall` (ns), `tokens`, `sampled` (ticks whose phases were
    measured) and `phase NAME` (ns).
    """

    ticks: int
    median: Figure
    phases: list[str]
    sums: Sums

    def phase(self, name: str) -> Figure:
        """The mean time per tick in a phase, ns; 0 if the run did not have the phase."""
        if name in self.phases:
            return self.sums.quotient(f"phase {name}", "sampled")
        return Figure(0.0, [0.0] * RESAMPLES, self.sums.blocks)


def count_ticks(ticks: Table, skip: int) -> int:
    """Count the ticks after the first `skip` ticks of every attempt."""
    ticks = ticks.only(*_columns(ticks))
    query = f"with {_kept(ticks, (), skip)} select count(*) from kept"
    ((count,),) = ticks.fetch(query)
    return int(count)


def read_times(ticks: Table, skip: int) -> Times:
    """The times of a run after the first `skip` ticks of every attempt; some ticks must be left.

    For the median, the resampled figure is the share of the ticks below it; the shift of that share
    is looked up in the quantiles of all ticks (R. S. Woodruff, "Confidence intervals for medians
    and other position measures", Journal of the American Statistical Association 47, 1952).
    """
    phases = ticks.phases
    ticks = ticks.only(*_columns(ticks), *(f"{phase}_ns" for phase in phases))
    kept = _kept(ticks, phases, skip)
    levels = ", ".join(str(level / LEVELS) for level in range(LEVELS + 1))
    query = f"with {kept} select count(*), quantile_cont(wall, [{levels}]) from kept"
    ((count, quantiles),) = ticks.fetch(query)
    middle = repr(_quantile(quantiles, 0.5))
    columns = {
        "ticks": "count(*)",
        "below": f"sum(if(wall < {middle}, 1, if(wall = {middle}, 0.5, 0)))",
        "wall": "sum(wall)",
        "tokens": "sum(tokens)",
        "sampled": "count(*) filter (where sampled)",
    } | {f"phase {name}": f"coalesce(sum(p{at}), 0)" for at, name in enumerate(phases)}
    rows = ticks.fetch(
        f"""with {kept}, placed as (
                select *, (row_number() over (order by tick) - 1) * least({BINS}, {count})
                          // {count} as bin
                from kept)
            select {", ".join(f"({column})::DOUBLE" for column in columns.values())}
            from placed group by bin order by bin"""
    )
    series = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
    # seeded by the tick times: a run has the same resamples as A and as B, and equals itself
    random = Random(repr(series["wall"]))
    halves = {"below": series.pop("below"), "ticks": series["ticks"]}
    shares = _resample(halves, "below", random).quotient("below")
    shifted = [_quantile(quantiles, 0.5 + shares.value - share) for share in shares.resampled]
    return Times(
        ticks=count,
        median=Figure(_quantile(quantiles, 0.5), shifted, shares.blocks),
        phases=phases,
        sums=_resample(series, "wall", random),
    )


def _resample(series: dict[str, list[float]], leading: str, random: Random) -> Sums:
    """Sums over resamples, in blocks whose length suits the column `leading`."""
    length = block_length(list(map(_quotient, series[leading], series["ticks"])))
    resampled = resampled_sums(list(series.values()), length, RESAMPLES, random)
    return Sums(
        totals={name: sum(column) for name, column in series.items()},
        resampled=dict(zip(series, resampled, strict=True)),
        blocks=len(series["ticks"]) / length,
    )


def _columns(ticks: Table) -> list[str]:
    """The columns that the times are made of, apart from the phases."""
    return ["attempt", "rank", "tick", "wall_ns", *(["tokens"] * ("tokens" in ticks.metrics))]


def _kept(ticks: Table, phases: Sequence[str], skip: int) -> str:
    return f"""per_tick as ({per_tick(ticks, phases)}),
               kept as (select * from per_tick
                        qualify tick::HUGEINT - min(tick) over (partition by attempt) >= {skip})"""


def _quantile(quantiles: Sequence[float], level: float) -> float:
    place = min(max(level, 0.0), 1.0) * (len(quantiles) - 1)
    low = int(place)
    start, end = quantiles[low], quantiles[min(low + 1, len(quantiles) - 1)]
    return start + (place - low) * (end - start)


def _quotient(above: float, below: float) -> float:
    return above / below if below else math.nan
