"""A run in numbers: what `metronorm show` prints, as a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.clock.columns import identifier

if TYPE_CHECKING:
    from metronorm.clock.reader import Run
    from metronorm.clock.table import Table

POINTS = 200


@dataclass(frozen=True)
class Curve:
    """A metric over the ticks, at most `POINTS` of it: the median of each stretch."""

    ticks: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Best:
    """The last value of a metric and its smallest finite one, with the tick of that."""

    last: float
    best: float | None
    tick: int | None


@dataclass(frozen=True)
class Summary:
    """What a run did and cost, over its effective history."""

    name: str
    directory: str
    state: str
    ticks: int
    attempts: int
    ranks: int
    config: dict[str, Any]
    host: str
    machine: str
    seconds: float
    losses: dict[str, Best]
    tick_median_ns: float | None
    tick_p95_ns: float | None
    phases: dict[str, float]
    tokens: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    curves: dict[str, Curve]
    notices: list[str]


def summarize(run: Run) -> Summary:
    """Sum a run up.

    `phases` are shares of the time of all ticks. `tokens_per_second` divides the tokens that were
    counted by the time of all ticks, evaluation and checkpoints included.
    """
    ticks, events = run.ticks(), run.events()
    one = ticks.sql(
        """select count(distinct tick), count(distinct rank), sum(wall_ns)::DOUBLE, median(wall_ns),
                  quantile_cont(wall_ns, 0.95) from ticks"""
    ).fetchall()
    count, ranks, wall_ns, median_ns, p95_ns = one[0]
    tokens = None
    if "tokens" in ticks.columns:
        tokens = _one(ticks, "select sum(tokens) from ticks")
    losses = [name for name in ticks.columns if name.endswith("loss") or "loss_per" in name]
    curves = {name: _curve(ticks, name, 1.0) for name in losses}
    curves["tick time, ms"] = _curve(ticks, "wall_ns", 1e-6)
    return Summary(
        name=run.info.name,
        directory=str(run.directory),
        state=_state(events),
        ticks=count,
        attempts=len(run.attempts),
        ranks=ranks,
        config=run.info.config,
        host=_host(run.info.host),
        machine=_machine(events),
        seconds=(wall_ns or 0.0) / 1e9,
        losses={name: best for name in losses if (best := _best(ticks, name)) is not None},
        tick_median_ns=median_ns,
        tick_p95_ns=p95_ns,
        phases=_shares(ticks),
        tokens=tokens,
        tokens_per_second=tokens / wall_ns * 1e9 if tokens and wall_ns else None,
        peak_memory_bytes=_one(run.resources(), "select max(peak_memory_bytes) from resources"),
        curves={name: curve for name, curve in curves.items() if curve.ticks},
        notices=run.notices(),
    )


def _one(table: Table, query: str) -> Any:
    return table.sql(query).fetchall()[0][0]


def _shares(ticks: Table) -> dict[str, float]:
    """Of the time of the ticks whose phases were measured."""
    sums = "".join(f", sum({identifier(phase + '_ns')})::DOUBLE" for phase in ticks.phases)
    query = f"select sum(wall_ns)::DOUBLE{sums} from ticks where unattributed_ns is not null"
    wall_ns, *totals = ticks.sql(query).fetchall()[0] if ticks.phases else (None,)
    if not wall_ns:
        return {}
    return {phase: (ns or 0.0) / wall_ns for phase, ns in zip(ticks.phases, totals, strict=True)}


def _best(ticks: Table, name: str) -> Best | None:
    column = identifier(name)
    last = _one(ticks, f"select arg_max({column}, tick) from ticks where {column} is not null")
    if last is None:
        return None
    row = ticks.sql(
        f"select min({column}), arg_min(tick, {column}) from ticks where isfinite({column})"
    ).fetchall()[0]
    return Best(last, row[0], row[1])


def _curve(ticks: Table, name: str, scale: float) -> Curve:
    column = identifier(name)
    rows = ticks.sql(
        f"""with seen as (select tick, {column} as value from ticks where isfinite({column})),
                 bounds as (select min(tick) as low, max(tick) - min(tick) + 1 as span from seen)
            select median(tick)::BIGINT, median(value) * {scale} from seen, bounds
            group by (tick - low) * {POINTS} // greatest(span, {POINTS}) order by 1"""
    ).fetchall()
    return Curve([row[0] for row in rows], [row[1] for row in rows])


def _state(events: Table) -> str:
    """How the newest attempt ended, by its events `end` and `signal`; a killed one left none."""
    rows = events.sql(
        """select event, fields::VARCHAR from events
           where attempt = (select max(attempt) from events) and event in ('end', 'signal')"""
    ).fetchall()
    told = {event: msgspec.json.decode(fields) for event, fields in rows}
    if "end" not in told:
        return "running or killed"
    if "signal" in told:
        return f"stopped by {told['signal'].get('signal')}"
    error = told["end"].get("error")
    return f"failed: {error}" if error else "finished"


def _machine(events: Table) -> str:
    """What the newest attempt chose for this machine, by its event `machine`: "precision bf16"."""
    query = "select fields::VARCHAR from events where event = 'machine' order by attempt"
    rows = events.sql(query).fetchall()
    chosen = msgspec.json.decode(rows[-1][0]) if rows else {}
    return ", ".join(f"{name} {value}" for name, value in chosen.items())


def _host(host: dict[str, Any]) -> str:
    memory = host.get("memory_bytes")
    parts = [host.get("name"), host.get("processor"), f"{host.get('cores')} cores"]
    if memory:
        parts.append(f"{memory / 2**30:.0f} GiB")
    return ", ".join(str(part) for part in parts if part)
