"""Curves: a metric over the ticks of a run, thinned without losing a spike.

The ticks are divided into stretches. Each stretch keeps the lowest, the highest and the mean value,
and counts the values that are NaN or infinite. `read_curve` reads one metric; `Curves` keeps all
metrics of a run and takes in new ticks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from metronorm.errors import ConfigError
from metronorm.store.parquet_parts import batches
from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metronorm.runs.table import Table

POINTS = 200
TICK_TIME = "wall_ns"

# SQL of the fields of a _Stretch, over the columns `tick`, `value` and `finite`
_FINITE = "case when isfinite(value) then value end as finite"
_CELLS = """
    min(tick), coalesce(min(finite), 'inf'::DOUBLE), coalesce(max(finite), '-inf'::DOUBLE),
    coalesce(sum(finite), 0.0), count(finite), count(value) - count(finite)"""


@dataclass(frozen=True)
class Curve:
    """A metric over the ticks: one entry per stretch in which it has a value, in order.

    `ticks` holds the first tick of each stretch that has a value. `low`, `high` and `mean` are over
    the finite values; they are None in a stretch without finite values, and `mean` also where the
    sum overflows. `not_finite` counts the NaNs and infinities.
    """

    ticks: list[int] = field(default_factory=list)
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    mean: list[float | None] = field(default_factory=list)
    not_finite: list[int] = field(default_factory=list)

    def points(self, scale: float = 1.0) -> list[tuple[int, float]]:
        """The line to draw: (tick, mean times `scale`) of each stretch that has a mean."""
        pairs = zip(self.ticks, self.mean, strict=True)
        return [(tick, mean * scale) for tick, mean in pairs if mean is not None]


class _Stretch(NamedTuple):
    """Some values of a metric. Without finite values, `low` is inf and `high` is -inf."""

    tick: int
    low: float
    high: float
    total: float
    finite: int
    not_finite: int

    def plus(self, other: _Stretch) -> _Stretch:
        return _Stretch(
            min(self.tick, other.tick),
            min(self.low, other.low),
            max(self.high, other.high),
            self.total + other.total,
            self.finite + other.finite,
            self.not_finite + other.not_finite,
        )


def read_curve(
    ticks: Table, metric: str, *, stretches: int = 1000, rank: int | None = None
) -> Curve:
    """Read one metric, thinned to stretches of equal length.

    Args:
        ticks: the ticks of a run.
        metric: the name of a column.
        stretches: the largest number of entries, at least 1.
        rank: the rank to read; by default all ranks go into one curve.

    Raises:
        ConfigError: the column does not exist, or `stretches` is less than 1.
    """
    if metric not in ticks.columns:
        raise ConfigError(
            "a curve needs a column of the run",
            got=repr(metric),
            fix=f"one of {', '.join(ticks.metrics)}",
        )
    if stretches < 1:
        raise ConfigError("a curve needs at least 1 stretch", got=str(stretches))
    where = "true" if rank is None else f"rank = {rank}"
    ticks = ticks.only("tick", "rank", metric)
    query = f"select min(tick), max(tick) from ticks where {where}"
    ((first, last),) = ticks.fetch(query)
    if first is None:
        return Curve()
    span = max(last - first + 1, stretches)
    # HUGEINT: ticks may be as far from each other as a BIGINT reaches
    number = f"(tick::HUGEINT - {first}) * {stretches} // {span}"
    rows = ticks.fetch(
        f"""with
                seen as (select tick, {identifier(metric)}::DOUBLE as value
                         from ticks where {where}),
                sorted as (select tick, value, {_FINITE} from seen where value is not null)
            select {_CELLS} from sorted group by {number} order by {number}"""
    )
    return _curve(_Stretch(*row) for row in rows)


class Curves:
    """The curves of all metrics and of the tick time, which grow with the run.

    A stretch has 2^n ticks. When there would be more than `POINTS` stretches, neighbours are merged
    and n becomes n + 1, so memory and the time of a look do not grow with the run.

    Args:
        ticks: the ticks that are already on record.

    Attributes:
        latest: the newest value of each metric, in the order of the columns.
    """

    def __init__(self, ticks: Table) -> None:
        self.latest: dict[str, float] = {}
        self._width = 1  # ticks in a stretch
        self._stretches: dict[str, dict[int, _Stretch]] = {}  # by metric and number of the stretch
        ((first, last),) = ticks.only("tick").fetch("select min(tick), max(tick) from ticks")
        self._first, self._last = first, first
        if first is not None:
            self._extend_to(last)
            self._load(ticks)

    def add(self, tick: int, values: Mapping[str, float | str]) -> None:
        """Add the values of a tick. A value that is not finite may be text ("nan"), as on tape."""
        if self._first is None:
            self._first = self._last = tick
        self._extend_to(tick)
        for name, value in values.items():
            number = float(value)
            if math.isfinite(number):
                seen = _Stretch(tick, number, number, number, 1, 0)
            else:
                seen = _Stretch(tick, math.inf, -math.inf, 0.0, 0, 1)
            self.latest[name] = number
            self._put(name, max(tick - self._first, 0) // self._width, seen)

    def curve(self, name: str) -> Curve:
        """The curve of one metric; it has no entries if the metric has no values."""
        stretches = self._stretches.get(name, {})
        return _curve(stretches[number] for number in sorted(stretches))

    def _load(self, ticks: Table) -> None:
        order = {name: place for place, name in enumerate((TICK_TIME, *ticks.metrics))}
        rows = []
        for batch in batches([*order]):
            names = [identifier(name) for name in batch]
            values = ", ".join(f"{name}::DOUBLE as {name}" for name in names)
            # unpivoted: DuckDB groups thousands of metrics as rows, but not as columns
            rows += ticks.only("tick", *batch).fetch(
                f"""with
                        wide as (select tick, {values} from ticks),
                        long as (from wide
                                 unpivot (value for metric in ({", ".join(names)}))),
                        sorted as (select *, {_FINITE} from long)
                    select (tick::HUGEINT - {self._first}) // {self._width} as number, metric,
                           arg_max(value, tick), {_CELLS}
                    from sorted group by number, metric"""
            )
        for number, name, newest, *cells in sorted(rows, key=lambda row: (row[0], order[row[1]])):
            self.latest[name] = newest
            self._put(name, number, _Stretch(*cells))

    def _put(self, name: str, number: int, seen: _Stretch) -> None:
        stretches = self._stretches.setdefault(name, {})
        known = stretches.get(number)
        stretches[number] = seen if known is None else known.plus(seen)

    def _extend_to(self, tick: int) -> None:
        """Merge neighbouring stretches until this tick fits in the last one."""
        self._last = max(self._last, tick)
        while (self._last - self._first) // self._width >= POINTS:
            self._width *= 2
            before, self._stretches = self._stretches, {}
            for name, stretches in before.items():
                for number, seen in stretches.items():
                    self._put(name, number // 2, seen)


def _curve(stretches: Iterable[_Stretch]) -> Curve:
    curve = Curve()
    for seen in stretches:
        finite = seen.finite > 0
        curve.ticks.append(seen.tick)
        curve.low.append(seen.low if finite else None)
        curve.high.append(seen.high if finite else None)
        mean = seen.total / seen.finite if finite else math.nan
        curve.mean.append(mean if math.isfinite(mean) else None)
        curve.not_finite.append(seen.not_finite)
    return curve
