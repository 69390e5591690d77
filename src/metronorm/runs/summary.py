"""The summary of a run: the numbers that `metronorm show` prints, as a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metronorm.runs.config import planned_ticks, read_config
from metronorm.runs.curves import POINTS, TICK_TIME, Curve, read_curve
from metronorm.runs.directions import better, is_evaluated, is_loss
from metronorm.runs.events import read_events
from metronorm.runs.goodput import goodput
from metronorm.runs.lateness import Straggler, stragglers
from metronorm.runs.state import run_state
from metronorm.runs.units import units_of
from metronorm.scalars import as_integer
from metronorm.store.parquet_parts import batches
from metronorm.store.sql_columns import identifier
from metronorm.text import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metronorm.runs.directions import Direction
    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

MOST_CURVES = 10  # of losses: nobody can read a chart with more
METRICS_AT_ONCE = 100  # in one query


@dataclass(frozen=True)
class Best:
    """The last value of a metric; its best finite value, and the first tick that had it.

    Both are None where it is not known whether lower or higher values are better.
    """

    last: float
    best: float | None
    tick: int | None


@dataclass(frozen=True)
class Summary:
    """What a run did and cost, over its effective history.

    With several ranks, times are those of the rank that spent most, measures those of the first
    rank that has them, and what ranks count (`metronorm.runs.units`) is the sum over all ranks.

    | field | |
    | --- | --- |
    | `id`, `name` | of the run, as in `run.json` |
    | `created_ns` | when the run was created, in nanoseconds since 1970 |
    | `state` | how the newest attempt stands; see `metronorm.runs.state` |
    | `host`, `machine` | the machine of the first attempt, and the choices made for the newest |
    | `planned` | the number of ticks that the newest attempt is to reach; None if not known |
    | `config` | that of the newest attempt |
    | `seconds` | the time of all ticks |
    | `measures` | of each metric that is a loss or a measure of an evaluation or a test |
    | `tick_median_ns`, `tick_p95_ns` | the median and the 95th percentile of the tick time |
    | `phases` | the share of each phase in the ticks whose phases were measured |
    | `clock_ns` | what recording takes of the median tick |
    | `counts` | of each unit that ticks count, such as tokens, how many |
    | `per_second` | the same over `seconds`, which include evaluation and checkpoints |
    | `straggler` | the rank that reaches the collective latest, if it is late in most ticks |
    | `peak_memory_bytes` | the most that a process held |
    | `forecast_memory_bytes` | the same as foreseen before the first tick; None: nothing was |
    | `goodput` | the share of the time that led forward; None for a run of one attempt |
    | `branches` | "from tick-00000400: ..." for each attempt that began at a chosen checkpoint |
    | `samples` | how many texts, pictures, ... there are to look at |
    | `tick_ns`, `curves` | the curve of the tick time, and of the first `MOST_CURVES` losses |
    | `notices` | sentences about records that were dropped, damaged or left out |
    """

    id: str
    name: str
    directory: str
    created_ns: int
    state: str
    ticks: int
    planned: int | None
    attempts: int
    ranks: int
    config: dict[str, Any]
    host: str
    machine: str
    seconds: float
    measures: dict[str, Best]
    tick_median_ns: float | None
    tick_p95_ns: float | None
    phases: dict[str, float]
    clock_ns: float | None
    counts: dict[str, float]
    per_second: dict[str, float]
    straggler: Straggler | None
    peak_memory_bytes: int | None
    forecast_memory_bytes: int | None
    goodput: float | None
    branches: list[str]
    samples: int
    tick_ns: Curve
    curves: dict[str, Curve]
    notices: list[str]


def summarize(run: Run) -> Summary:
    """The summary of a run, as it is now.

    Raises:
        RunError: a file of the run may not be read.
        OutOfMemoryError: reading the run takes more memory than there is.
    """
    ticks, events, resources = run.ticks(), run.events(), run.resources()
    config = read_config(run, events)
    measured = {name: better(name, config) for name in ticks.metrics}
    units = units_of(ticks.metrics)
    summed = ["wall_ns", *(f"{phase}_ns" for phase in ticks.phases), *units]
    ranks = _by_rank(ticks.only("rank", *summed), summed)
    slowest = max(ranks, key=lambda rank: rank["wall_ns"], default=None)
    best = _best(
        ticks,
        {
            name: direction
            for name, direction in measured.items()
            if direction is not None or is_evaluated(name)
        },
    )
    losses = [(name, rank) for name, (rank, _) in best.items() if is_loss(name)]
    curves = {
        name: read_curve(ticks, name, stretches=POINTS, rank=rank)
        for name, rank in losses[:MOST_CURVES]
    }
    tick_ns, median_ns, p95_ns, wall_ns, clock_ns = Curve(), None, None, None, None
    if slowest:
        wall_ns = slowest["wall_ns"]
        tick_ns = read_curve(ticks, TICK_TIME, stretches=POINTS, rank=slowest["rank"])
        ((median_ns, p95_ns, clock_ns),) = ticks.only("rank", "wall_ns", "clock_ns").fetch(
            "select median(wall_ns), quantile_cont(wall_ns, 0.95), median(clock_ns) from ticks "
            f"where rank = {slowest['rank']}"
        )
    counts = {unit: sum(rank[unit] or 0.0 for rank in ranks) for unit in units}
    return Summary(
        id=run.info.id,
        name=run.info.name,
        directory=str(run.directory),
        created_ns=run.info.created_ns,
        state=run_state(run, events),
        ticks=max((rank["ticks"] for rank in ranks), default=0),
        planned=planned_ticks(config),
        attempts=len(run.attempts),
        ranks=len(ranks),
        config=config,
        host=_host(run.info.host),
        machine=_machine(events),
        seconds=(wall_ns or 0.0) / 1e9,
        measures={name: found for name, (_, found) in best.items()},
        tick_median_ns=median_ns,
        tick_p95_ns=p95_ns,
        phases=_shares(ticks, slowest),
        clock_ns=clock_ns,
        counts=counts,
        per_second={unit: of / wall_ns * 1e9 for unit, of in counts.items()} if wall_ns else {},
        straggler=_straggler(ticks, ranks),
        peak_memory_bytes=_one(resources, "select max(peak_memory_bytes) from resources")
        if "peak_memory_bytes" in resources.columns
        else None,
        forecast_memory_bytes=_forecast(events),
        goodput=goodput(run).share if len(run.attempts) > 1 else None,
        branches=_branches(events),
        samples=len(run.samples()),
        tick_ns=tick_ns,
        curves=curves,
        notices=[*_dropped(events), *_samples_dropped(events), *run.notices()],
    )


def _by_rank(ticks: Table, summed: list[str]) -> list[dict[str, Any]]:
    """The number of ticks and the sums of columns of each rank, in one query."""
    names = ["rank", "ticks", *summed, "measured"]
    measured = "unattributed_ns is not null" if ticks.phases else "false"
    columns = [
        "rank",
        "count(*)",
        *(f"sum({identifier(name)})::DOUBLE" for name in summed),
        f"sum(wall_ns) filter ({measured})::DOUBLE",
    ]
    query = f"select {', '.join(columns)} from ticks group by rank order by rank"
    return [dict(zip(names, row, strict=True)) for row in ticks.sql(query).fetchall()]


def _straggler(ticks: Table, ranks: list[dict[str, Any]]) -> Straggler | None:
    if len(ranks) < 2 or "arrival_ns" not in ticks.columns:
        return None
    span = max(rank["ticks"] for rank in ranks)
    columns = ticks.only("rank", "tick", "wall_ns", "arrival_ns")
    return next(iter(stragglers(columns.fetch, span, "arrival_ns")), None)


def _dropped(events: Table) -> list[str]:
    """Sentences about dropped records, from the last event `dropped` of each rank."""
    dropped = read_events(events, "event = 'dropped'")
    last = {(event.attempt, event.rank): event.fields for event in dropped}
    return [
        f"attempt {attempt}, rank {rank}: the disk did not take {fields.get('records')} records, "
        f"the last in tick {fields.get('last_tick')}"
        for (attempt, rank), fields in sorted(last.items(), key=lambda item: item[0])
    ]


def _samples_dropped(events: Table) -> list[str]:
    """Sentences about samples that were not kept; the last event of a rank has all of them."""
    dropped = read_events(events, "event = 'samples dropped'")
    last = {(event.attempt, event.rank): event for event in dropped}
    return [
        f"attempt {attempt}, rank {rank}: {event.fields.get('samples')} samples were not kept, the "
        f"last in tick {event.tick}: {event.fields.get('why')}"
        for (attempt, rank), event in sorted(last.items(), key=lambda item: item[0])
    ]


def _one(table: Table, query: str) -> Any:
    return table.fetch(query)[0][0]


def _shares(ticks: Table, slowest: dict[str, Any] | None) -> dict[str, float]:
    """The share of each phase in the ticks whose phases were measured."""
    if not slowest or not slowest["measured"]:
        return {}
    return {phase: (slowest[f"{phase}_ns"] or 0.0) / slowest["measured"] for phase in ticks.phases}


def _best(ticks: Table, metrics: dict[str, Direction | None]) -> dict[str, tuple[int, Best]]:
    """For each metric the first rank that has it, with its last and its best value there."""
    wanted = {name: _best_of(identifier(name), metrics[name]) for name in metrics}
    found = {}
    for name, (rank, last, best) in of_first_rank(ticks, wanted).items():
        place = best or {"value": None, "tick": None}
        found[name] = (rank, Best(last, place["value"], place["tick"]))
    return found


def of_first_rank(ticks: Table, metrics: Mapping[str, str]) -> dict[str, tuple[int, float, Any]]:
    """Of each metric that has values: the first rank that has any, and its last value there.

    Args:
        ticks: the table.
        metrics: by the name of each metric what else is wanted of it, in SQL.

    Returns:
        By name, in the same order: the rank, the last value, and what else was wanted.
    """
    found: dict[str, tuple[int, float, Any]] = {}
    for batch in batches([*metrics], METRICS_AT_ONCE):
        columns = ", ".join(
            f"count({sql}), arg_max({sql}, if({sql} is null, null, tick)), {metrics[name]}"
            for name, sql in zip(batch, map(identifier, batch), strict=True)
        )
        rows = ticks.only("tick", "rank", *batch).fetch(
            f"select rank, {columns} from ticks group by rank order by rank"
        )
        for rank, *cells in rows:
            for at, name in enumerate(batch):
                count, last, other = cells[3 * at : 3 * at + 3]
                if count:
                    found.setdefault(name, (rank, last, other))
    return {name: found[name] for name in metrics if name in found}


def _best_of(metric: str, direction: Direction | None) -> str:
    """SQL: the best value of a metric with its first tick."""
    if direction is None:
        return "null"
    sign = "-" if direction == "higher" else ""
    place = f"{{'order': {sign}{metric}, 'tick': tick, 'value': {metric}}}"
    return f"min(if(isfinite({metric}), {place}, null))"


def _branches(events: Table) -> list[str]:
    """Where the run branched, and the options that changed there; all ranks say the same."""
    found = {
        event.attempt: f"from {event.fields.get('checkpoint')}: "
        f"{'; '.join(map(str, event.fields.get('changed') or ['the same options']))}"
        for event in read_events(events, "event = 'branch'")
    }
    return [*found.values()]


def _machine(events: Table) -> str:
    """The fields of the newest event `machine`: choices for the machine, as "precision bf16"."""
    found = read_events(events, "event = 'machine'")
    chosen = max(found, key=lambda event: event.attempt).fields if found else {}
    return ", ".join(f"{name} {value}" for name, value in chosen.items())


def _forecast(events: Table) -> int | None:
    """The memory that was foreseen before the newest attempt."""
    found = read_events(events, "event = 'forecast'")
    newest = max(found, key=lambda event: event.attempt).fields if found else {}
    return as_integer(newest.get("memory_bytes"))


def _host(host: dict[str, Any]) -> str:
    memory = host.get("memory_bytes")
    cores = host.get("cores")
    parts = [host.get("name"), host.get("processor"), f"{cores} cores" if cores else None]
    if memory:
        parts.append(size(memory))
    return ", ".join(str(part) for part in parts if part)
