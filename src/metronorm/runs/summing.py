"""The numbers of a summary that take a query: of one run, or of many runs at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metronorm.runs.table import RUN
from metronorm.store.parquet_parts import batches
from metronorm.store.schema import UNATTRIBUTED
from metronorm.store.sql_columns import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metronorm.runs.directions import Direction
    from metronorm.runs.table import Table

METRICS_AT_ONCE = 100  # in one query
_PHASED = f"{UNATTRIBUTED}_ns"  # is there where the phases of a tick were measured


@dataclass(frozen=True)
class Best:
    """The last value of a metric; its best finite value, and the first tick that had it.

    Both are None where it is not known whether lower or higher values are better.
    """

    last: float
    best: float | None
    tick: int | None


@dataclass
class Sums:
    """What was read of one run.

    Attributes:
        ranks: of each rank the number of `ticks`, the sum of each column, and that of `wall_ns` in
            the ticks whose phases were `measured`.
        best: by metric the first rank that has it, with its last and its best value there.
        slowest: the rank that spent most; None if there is no tick.
        tick_ns: of that rank the median tick, its 95th percentile, and the median of `clock_ns`.
    """

    ranks: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, tuple[int, Best]] = field(default_factory=dict)
    slowest: dict[str, Any] | None = None
    tick_ns: tuple[float | None, float | None, float | None] = (None, None, None)


def read_sums(
    ticks: Table, summed: Sequence[str], metrics: Mapping[str, Direction | None]
) -> dict[str, Sums]:
    """The sums of each run that has ticks.

    Args:
        ticks: of one or more runs, with the column `RUN`.
        summed: the columns to add up, one of them `wall_ns`.
        metrics: of which the last and best values are wanted.
    """
    found: dict[str, Sums] = {}
    for run, sums in _by_rank(ticks, summed):
        found.setdefault(run, Sums()).ranks.append(sums)
    wanted = {name: _best_of(identifier(name), of) for name, of in metrics.items()}
    for run, measures in of_first_ranks(ticks, wanted).items():
        for name, (rank, last, best) in measures.items():
            place = best or {"value": None, "tick": None}
            found[run].best[name] = rank, Best(last, place["value"], place["tick"])
    for each in found.values():
        each.slowest = max(each.ranks, key=lambda rank: rank["wall_ns"])
    _read_tick_times(ticks, found)
    return found


def read_peaks(resources: Table) -> dict[str, int]:
    """The most memory that a process of each run held, where it was sampled.

    Args:
        resources: of one or more runs, with the column `RUN`.
    """
    name = "peak_memory_bytes"
    if name not in resources.columns:
        return {}
    return dict(
        resources.only(RUN, name).fetch(f"select {RUN}, max({name}) from resources group by {RUN}")
    )


def _by_rank(ticks: Table, summed: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    names = ["rank", "ticks", *summed, "measured"]
    measured = f"{_PHASED} is not null" if _PHASED in summed else "false"
    columns = [
        RUN,
        "rank",
        "count(*)",
        *(f"sum({identifier(name)})::DOUBLE" for name in summed),
        f"sum(wall_ns) filter ({measured})::DOUBLE",
    ]
    rows = ticks.only(RUN, "rank", *summed).fetch(
        f"select {', '.join(columns)} from ticks group by {RUN}, rank order by {RUN}, rank"
    )
    return [(run, dict(zip(names, row, strict=True))) for run, *row in rows]


def _read_tick_times(ticks: Table, found: Mapping[str, Sums]) -> None:
    slowest = [(run, sums.slowest["rank"]) for run, sums in found.items() if sums.slowest]
    if not slowest:
        return
    places = ", ".join(f"({literal(run)}, {rank})" for run, rank in slowest)
    rows = ticks.only(RUN, "rank", "wall_ns", "clock_ns").fetch(
        f"""select {RUN}, median(wall_ns), quantile_cont(wall_ns, 0.95), median(clock_ns)
            from ticks where ({RUN}, rank) in ({places}) group by {RUN}"""
    )
    for run, median_ns, p95_ns, clock_ns in rows:
        found[run].tick_ns = median_ns, p95_ns, clock_ns


def of_first_rank(ticks: Table, metrics: Mapping[str, str]) -> dict[str, tuple[int, float, Any]]:
    """Of each metric that has values: the first rank that has any, and its last value there.

    Args:
        ticks: the table.
        metrics: by the name of each metric what else is wanted of it, in SQL.

    Returns:
        By name, in the same order: the rank, the last value, and what else was wanted.
    """
    return of_first_ranks(ticks.of_run(""), metrics).get("", {})


def of_first_ranks(
    ticks: Table, metrics: Mapping[str, str]
) -> dict[str, dict[str, tuple[int, float, Any]]]:
    """As `of_first_rank`, for a table of several runs: those of each run that has any."""
    found: dict[str, dict[str, tuple[int, float, Any]]] = {}
    for batch in batches([*metrics], METRICS_AT_ONCE):
        columns = ", ".join(
            f"count({sql}), arg_max({sql}, if({sql} is null, null, tick)), {metrics[name]}"
            for name, sql in zip(batch, map(identifier, batch), strict=True)
        )
        rows = ticks.only(RUN, "tick", "rank", *batch).fetch(
            f"select {RUN}, rank, {columns} from ticks group by {RUN}, rank order by {RUN}, rank"
        )
        for run, rank, *cells in rows:
            for at, name in enumerate(batch):
                count, last, other = cells[3 * at : 3 * at + 3]
                if count:
                    found.setdefault(run, {}).setdefault(name, (rank, last, other))
    return {
        run: {name: values[name] for name in metrics if name in values}
        for run, values in found.items()
    }


def _best_of(metric: str, direction: Direction | None) -> str:
    """SQL: the best value of a metric with its first tick."""
    if direction is None:
        return "null"
    sign = "-" if direction == "higher" else ""
    place = f"{{'order': {sign}{metric}, 'tick': tick, 'value': {metric}}}"
    return f"min(if(isfinite({metric}), {place}, null))"
