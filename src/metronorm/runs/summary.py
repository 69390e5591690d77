"""The summary of a run: the numbers that `metronorm show` prints, as a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.runs.config import changed_by, planned_ticks, with_file
from metronorm.runs.curves import POINTS, TICK_TIME, Curve, read_curve
from metronorm.runs.directions import better, is_evaluated, is_loss
from metronorm.runs.events import Event, named, read_events
from metronorm.runs.goodput import goodput
from metronorm.runs.lateness import Straggler, stragglers
from metronorm.runs.samples import samples_of
from metronorm.runs.state import STATE_EVENTS, state_after
from metronorm.runs.summing import Best, Sums, read_peaks, read_sums
from metronorm.runs.table import Table
from metronorm.runs.units import units_of
from metronorm.scalars import as_integer
from metronorm.store.run_directory import RunInfo
from metronorm.store.sql_columns import literal
from metronorm.text import size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.runs.directions import Direction
    from metronorm.runs.reader import Run

MOST_CURVES = 10  # of losses: nobody can read a chart with more

# SQL of the events that a summary needs
NEEDED = "event in ({})".format(
    ", ".join(
        map(
            literal,
            ("changed", "dropped", "samples dropped", "branch", "machine", "forecast", "sample",
             *STATE_EVENTS),
        )
    )
)  # fmt: skip


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


@dataclass(frozen=True)
class Known:
    """What a summary begins with: a run, its table of ticks, and the events that are `NEEDED`."""

    info: RunInfo
    directory: Path
    attempts: list[int]
    ticks: Table
    events: list[Event]

    @property
    def newest(self) -> int:
        """The newest attempt; -1 if there is none."""
        return max(self.attempts, default=-1)

    @cached_property
    def of_newest(self) -> list[Event]:
        """The events of the newest attempt."""
        return [event for event in self.events if event.attempt == self.newest]

    @cached_property
    def config(self) -> dict[str, Any]:
        """That of the newest attempt."""
        changed = changed_by(self.info.config, named(self.of_newest, "changed"))
        return with_file(changed, self.directory)

    @cached_property
    def measured(self) -> dict[str, Direction | None]:
        """Which metrics are losses or measures, and whether lower or higher values are better."""
        directions = {name: better(name, self.config) for name in self.ticks.metrics}
        return {
            name: direction
            for name, direction in directions.items()
            if direction is not None or is_evaluated(name)
        }

    @cached_property
    def units(self) -> list[str]:
        """What the ticks count."""
        return units_of(self.ticks.metrics)

    @property
    def summed(self) -> list[str]:
        """The columns to add up."""
        return ["wall_ns", *(f"{phase}_ns" for phase in self.ticks.phases), *self.units]


def summarize(run: Run, *, curves: bool = True) -> Summary:
    """The summary of a run, as it is now.

    Args:
        run: the run.
        curves: read `tick_ns` and `curves` too; otherwise they are empty.

    Raises:
        RunError: a file of the run may not be read.
        OutOfMemoryError: reading the run takes more memory than there is.
    """
    ticks, events, resources = run.ticks(), run.events(), run.resources()
    known = Known(run.info, run.directory, run.attempts, ticks, read_events(events, NEEDED))
    sums = read_sums(ticks.of_run(""), known.summed, known.measured).get("", Sums())
    several = len(known.attempts) > 1
    return summary_of(
        known,
        sums,
        straggler=straggler_of(ticks, sums),
        peak_memory_bytes=read_peaks(resources.of_run("")).get(""),
        goodput=goodput(run).share if several else None,
        # of several attempts, some samples may have been left behind
        samples=len(
            run.samples() if several else samples_of(named(known.events, "sample"), run.directory)
        ),
        curves=_curves(ticks, sums) if curves else {},
        notices=run.notices(),
    )


def summary_of(
    known: Known,
    sums: Sums,
    *,
    straggler: Straggler | None,
    peak_memory_bytes: int | None,
    goodput: float | None,
    samples: int,
    curves: dict[str, Curve],
    notices: list[str],
) -> Summary:
    """Put a summary together.

    Args:
        known: the run.
        sums: what was read of its ticks.
        straggler: see `Summary`, as the others.
        peak_memory_bytes: the same.
        goodput: the same.
        samples: the same.
        curves: of the losses, and that of `TICK_TIME`.
        notices: about damage.
    """
    median_ns, p95_ns, clock_ns = sums.tick_ns
    wall_ns = sums.slowest["wall_ns"] if sums.slowest else None
    counts = {unit: sum(rank[unit] or 0.0 for rank in sums.ranks) for unit in known.units}
    events = known.events
    return Summary(
        id=known.info.id,
        name=known.info.name,
        directory=str(known.directory),
        created_ns=known.info.created_ns,
        state=state_after(known.of_newest, known.directory, known.newest),
        ticks=max((rank["ticks"] for rank in sums.ranks), default=0),
        planned=planned_ticks(known.config),
        attempts=len(known.attempts),
        ranks=len(sums.ranks),
        config=known.config,
        host=_host(known.info.host),
        machine=_machine(events),
        seconds=(wall_ns or 0.0) / 1e9,
        measures={name: found for name, (_, found) in sums.best.items()},
        tick_median_ns=median_ns,
        tick_p95_ns=p95_ns,
        phases=_shares(sums, known.ticks.phases),
        clock_ns=clock_ns,
        counts=counts,
        per_second={unit: of / wall_ns * 1e9 for unit, of in counts.items()} if wall_ns else {},
        straggler=straggler,
        peak_memory_bytes=peak_memory_bytes,
        forecast_memory_bytes=_forecast(events),
        goodput=goodput,
        branches=_branches(events),
        samples=samples,
        tick_ns=curves.get(TICK_TIME, Curve()),
        curves={name: curve for name, curve in curves.items() if name != TICK_TIME},
        notices=[*_dropped(events), *_samples_dropped(events), *notices],
    )


def _curves(ticks: Table, sums: Sums) -> dict[str, Curve]:
    """The curves of the first losses, and that of the tick time."""
    losses = [(name, rank) for name, (rank, _) in sums.best.items() if is_loss(name)]
    wanted = losses[:MOST_CURVES]
    if sums.slowest:
        wanted.append((TICK_TIME, sums.slowest["rank"]))
    return {name: read_curve(ticks, name, stretches=POINTS, rank=rank) for name, rank in wanted}


def straggler_of(ticks: Table, sums: Sums) -> Straggler | None:
    """The rank that is late in most ticks."""
    if len(sums.ranks) < 2 or "arrival_ns" not in ticks.columns:
        return None
    span = max(rank["ticks"] for rank in sums.ranks)
    columns = ticks.only("rank", "tick", "wall_ns", "arrival_ns")
    return next(iter(stragglers(columns.fetch, span, "arrival_ns")), None)


def _dropped(events: Iterable[Event]) -> list[str]:
    """Sentences about dropped records, from the last event `dropped` of each rank."""
    dropped = named(events, "dropped")
    last = {(event.attempt, event.rank): event.fields for event in dropped}
    return [
        f"attempt {attempt}, rank {rank}: the disk did not take {fields.get('records')} records, "
        f"the last in tick {fields.get('last_tick')}"
        for (attempt, rank), fields in sorted(last.items(), key=lambda item: item[0])
    ]


def _samples_dropped(events: Iterable[Event]) -> list[str]:
    """Sentences about samples that were not kept; the last event of a rank has all of them."""
    dropped = named(events, "samples dropped")
    last = {(event.attempt, event.rank): event for event in dropped}
    return [
        f"attempt {attempt}, rank {rank}: {event.fields.get('samples')} samples were not kept, the "
        f"last in tick {event.tick}: {event.fields.get('why')}"
        for (attempt, rank), event in sorted(last.items(), key=lambda item: item[0])
    ]


def _shares(sums: Sums, phases: Iterable[str]) -> dict[str, float]:
    """The share of each phase in the ticks whose phases were measured."""
    slowest = sums.slowest
    if not slowest or not slowest["measured"]:
        return {}
    return {phase: (slowest[f"{phase}_ns"] or 0.0) / slowest["measured"] for phase in phases}


def _branches(events: Iterable[Event]) -> list[str]:
    """Where the run branched, and the options that changed there; all ranks say the same."""
    found = {
        event.attempt: f"from {event.fields.get('checkpoint')}: "
        f"{'; '.join(map(str, event.fields.get('changed') or ['the same options']))}"
        for event in named(events, "branch")
    }
    return [*found.values()]


def _machine(events: Iterable[Event]) -> str:
    """The fields of the newest event `machine`: choices for the machine, as "precision bf16"."""
    found = named(events, "machine")
    chosen = max(found, key=lambda event: event.attempt).fields if found else {}
    return ", ".join(f"{name} {value}" for name, value in chosen.items())


def _forecast(events: Iterable[Event]) -> int | None:
    """The memory that was foreseen before the newest attempt."""
    found = named(events, "forecast")
    newest = max(found, key=lambda event: event.attempt).fields if found else {}
    return as_integer(newest.get("memory_bytes"))


def _host(host: dict[str, Any]) -> str:
    memory = host.get("memory_bytes")
    cores = host.get("cores")
    parts = [host.get("name"), host.get("processor"), f"{cores} cores" if cores else None]
    if memory:
        parts.append(size(memory))
    return ", ".join(str(part) for part in parts if part)
