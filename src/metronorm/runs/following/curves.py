"""Curves over the ticks of a run that grow by what is new, thinned to a fixed number of points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from metronorm.runs.summary import Curve
from metronorm.store.parquet_parts import batches
from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metronorm.runs.table import Table

POINTS = 200
TICK_TIME = "wall_ns"


class Curves:
    """The courses of all metrics and of the tick time, as means over stretches of ticks.

    Stretches become twice as long whenever there would be more than `POINTS` of them, so what is
    kept, and what a look at it costs, does not grow with the run.

    Args:
        ticks: to begin with.
    """

    def __init__(self, ticks: Table) -> None:
        self.latest: dict[str, float] = {}
        self.not_finite: dict[str, int] = {}
        self._stretch = 1
        # by metric and number of the stretch: sum and count of the finite values
        self._sums: dict[str, dict[int, tuple[float, int]]] = {}
        first, last = ticks.only("tick").sql("select min(tick), max(tick) from ticks").fetchall()[0]
        self._first, self._last = first, first
        if first is not None:
            self._reach(last)
            self._load(ticks)

    def add(self, tick: int, values: Mapping[str, float | str]) -> None:
        """Add the values of a tick; those that are not finite may be text, as tapes have them."""
        if self._first is None:
            self._first = self._last = tick
        self._reach(tick)
        stretch = max(tick - self._first, 0) // self._stretch
        for name, value in values.items():
            number = float(value)
            finite = math.isfinite(number)
            self._put(name, stretch, number if finite else None, int(finite), 1, number)

    def curve(self, name: str) -> Curve:
        """One metric's course; without points if no value of it was finite."""
        middle = self._stretch // 2
        means = {
            min(self._first + stretch * self._stretch + middle, self._last): total / count
            for stretch, (total, count) in sorted(self._sums.get(name, {}).items())
            if math.isfinite(total)
        }
        return Curve(list(means), list(means.values()))

    def _load(self, ticks: Table) -> None:
        order = {name: place for place, name in enumerate((TICK_TIME, *ticks.metrics))}
        rows = []
        for batch in batches([*order]):
            names = [identifier(name) for name in batch]
            values = ", ".join(f"{name}::DOUBLE as {name}" for name in names)
            # as rows: thousands of metrics are no more than that, but too many columns to sum
            rows += (
                ticks.only("tick", *batch)
                .sql(
                    f"""select (tick::HUGEINT - {self._first}) // {self._stretch} as stretch,
                               metric, sum(value) filter (isfinite(value)),
                               count(*) filter (isfinite(value)), count(*), arg_max(value, tick)
                        from (unpivot (select tick, {values} from ticks)
                              on {", ".join(names)} into name metric value value)
                        group by stretch, metric"""
                )
                .fetchall()
            )
        for stretch, name, *cells in sorted(rows, key=lambda row: (row[0], order[row[1]])):
            self._put(name, stretch, *cells)

    def _put(
        self, name: str, stretch: int, total: float | None, finite: int, count: int, last: float
    ) -> None:
        self.latest[name] = last
        if count > finite:
            self.not_finite[name] = self.not_finite.get(name, 0) + count - finite
        if total is not None:
            sums = self._sums.setdefault(name, {})
            known, counted = sums.get(stretch, (0.0, 0))
            sums[stretch] = known + total, counted + finite

    def _reach(self, tick: int) -> None:
        """Make stretches long enough for this tick."""
        self._last = max(self._last, tick)
        while (self._last - self._first) // self._stretch >= POINTS:
            self._stretch *= 2
            for name, sums in self._sums.items():
                merged: dict[int, tuple[float, int]] = {}
                for stretch, (total, count) in sums.items():
                    known, counted = merged.get(stretch // 2, (0.0, 0))
                    merged[stretch // 2] = known + total, counted + count
                self._sums[name] = merged
