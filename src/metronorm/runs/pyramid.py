"""A curve thinned so that no spike is lost: the smallest and the largest value of each stretch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    from metronorm.runs.table import Table


@dataclass(frozen=True)
class Pyramid:
    """One entry per stretch of ticks that has a value, in their order.

    `ticks` is the first tick of the stretch; `low` and `high` are over its finite values, None
    where it has none; `not_finite` counts the others.
    """

    ticks: list[int]
    low: list[float | None]
    high: list[float | None]
    not_finite: list[int]


def pyramid(ticks: Table, metric: str, *, points: int = 2000) -> Pyramid:
    """Thin a metric to at most `points` values: two of each of `points / 2` stretches.

    Args:
        ticks: of a run; of several ranks, all are in one curve.
        metric: name of a column.
        points: at least 2.

    Raises:
        ConfigError: no such column, or too few points.
    """
    if metric not in ticks.columns:
        raise ConfigError(
            "a curve needs a column of the run",
            got=repr(metric),
            fix=f"one of {', '.join(ticks.metrics)}",
        )
    if points < 2:
        raise ConfigError("a curve needs at least 2 points", got=str(points))
    name = identifier(metric)
    ticks = ticks.only("tick", metric)
    first, last = ticks.sql("select min(tick), max(tick) from ticks").fetchall()[0]
    if first is None:
        return Pyramid([], [], [], [])
    stretches = points // 2
    span = max(last - first + 1, stretches)
    rows = ticks.sql(
        f"""
        select min(tick), min(finite), max(finite), count(*) - count(finite) from (
            select tick, (tick::HUGEINT - {first}) * {stretches} // {span} as stretch,
                   case when isfinite({name}) then {name} end as finite
            from ticks where {name} is not null)
        group by stretch order by stretch"""
    ).fetchall()
    columns: list[list[float]] = [list(column) for column in zip(*rows, strict=True)] or [[]] * 4
    return Pyramid(*columns)  # type: ignore[arg-type]
