"""What the page of one run shows beside its curves, as plain data for JSON.

Each function reads the run that `open_run` has opened, and takes as long as the run is large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.board.answers import bounded
from metronorm.errors import ConfigError
from metronorm.runs import compare, diagnose
from metronorm.runs.config import planned_ticks, read_config
from metronorm.runs.diagnosing import evidence_in_words
from metronorm.runs.event_words import in_words
from metronorm.runs.events import read_events
from metronorm.runs.state import run_state
from metronorm.runs.units import units_of
from metronorm.store.schema import FIXED
from metronorm.store.sql_columns import identifier, literal
from metronorm.text import printable

if TYPE_CHECKING:
    from metronorm.runs import Run

MOST_EVENTS, MOST_FIELDS = 2_000, 4_000  # events at once; bytes of the fields of one
MOST_SLOWEST = 100
_AXES = ("tick", "tokens", "time", "elapsed", "training")


def info(run: Run) -> dict[str, Any]:
    """What a run has: names, attempts, ranks and config, but no values."""
    ticks, events, resources = run.ticks(), run.events(), run.resources()
    config = read_config(run, events)
    every = run.ticks("full").only("attempt", "rank", "tick", "time_ns")
    attempts = every.fetch(
        """select attempt, min(time_ns), min(tick), max(tick) from ticks
           group by attempt order by attempt"""
    )
    ranks = every.fetch("select distinct rank from ticks order by rank")
    newest = max(run.attempts, default=-1)
    state = run_state(run, events)
    options, left_out = bounded(config)
    last = {attempt: last for attempt, _, _, last in attempts}
    return {
        "name": printable(run.info.name),
        "state": printable(state),
        "total": planned_ticks(config),
        "config": options,
        "config_left_out": left_out,
        "versions": run.info.versions,
        "attempts": [
            {
                "attempt": attempt,
                "begun_ns": begun_ns,
                "first": first,
                "last": last,
                "state": printable(state) if attempt == newest else None,
            }
            for attempt, begun_ns, first, last in attempts
        ],
        "ranks": [rank for (rank,) in ranks],
        "metrics": ticks.metrics,
        "phases": ticks.phases,
        "resources": [
            name
            for name in resources.columns
            if name not in ("attempt", "rank", *FIXED["resources"])
        ],
        "units": units_of(ticks.metrics),
        "events": events.fetch("select count(*) from events")[0][0],
        "left_behind": [
            {
                "attempt": stretch.attempt,
                "first": stretch.first,
                "last": last.get(stretch.attempt) if stretch.end is None else stretch.end - 1,
                "why": "branch" if stretch.by.is_branch else "resume",
                "by": stretch.by.attempt,
            }
            for stretch in run.left_behind()
        ],
        "notices": [printable(notice) for notice in run.notices()],
        "axes": [axis for axis in _AXES if axis != "tokens" or "tokens" in ticks.metrics],
    }


def events(
    run: Run, *, begin: int | None, end: int | None, names: list[str], limit: int
) -> dict[str, Any]:
    """Events in the order of their time, and how many there are in all.

    Args:
        run: the run.
        begin: the first tick; None: from the beginning.
        end: the last tick; None: to the end.
        names: which events; none: every.
        limit: the newest of them that are returned.
    """
    table = run.events()
    where = ["true"]
    where += [f"tick >= {begin}"] if begin is not None else []
    where += [f"tick <= {end}"] if end is not None else []
    where += [f"event in ({', '.join(map(literal, names))})"] if names else []
    condition = " and ".join(where)
    ((total,),) = table.fetch(f"select count(*) from events where {condition}")
    newest = f"""time_ns >= (select coalesce(min(time_ns), 0) from (select time_ns from events
        where {condition} order by time_ns desc limit {min(limit, MOST_EVENTS)}))"""
    found = []
    for event in read_events(table, f"{condition} and {newest}"):
        small = len(msgspec.json.encode(event.fields)) <= MOST_FIELDS
        found.append(
            {
                "attempt": event.attempt,
                "rank": event.rank,
                "tick": event.tick,
                "time_ns": event.time_ns,
                "event": printable(event.name),
                "words": printable(in_words(event)),
                "fields": event.fields if small else None,
            }
        )
    return {"events": found, "total": total}


def slowest(run: Run, count: int) -> dict[str, Any]:
    """The slowest ticks, with the time of each phase in ns."""
    ticks = run.ticks()
    phases = ticks.phases
    columns = [f"{phase}_ns" for phase in phases]
    rows = ticks.only("attempt", "rank", "tick", "wall_ns", *columns).fetch(
        f"""select {", ".join(map(identifier, ("attempt", "rank", "tick", "wall_ns", *columns)))}
            from ticks order by wall_ns desc, tick, rank limit {min(count, MOST_SLOWEST)}"""
    )
    return {
        "ticks": [
            {
                "attempt": attempt,
                "rank": rank,
                "tick": tick,
                "wall_ns": wall_ns,
                "phases": {
                    phase: ns for phase, ns in zip(phases, spent, strict=True) if ns is not None
                },
            }
            for attempt, rank, tick, wall_ns, *spent in rows
        ]
    }


def diagnosis(run: Run) -> dict[str, Any]:
    """What is wrong with a run, the most severe first."""
    return {
        "findings": [
            {
                "rule": finding.rule,
                "severity": finding.severity,
                "what": printable(finding.what),
                "advice": printable(finding.advice),
                "evidence": evidence_in_words(finding.evidence),
                "ticks": finding.ticks,
                "share": finding.share,
            }
            for finding in diagnose(run)
        ]
    }


def samples(run: Run) -> dict[str, Any]:
    """What a run left to look at; `number` names a sample in an address."""
    return {
        "samples": [
            {
                "number": number,
                "name": printable(sample.name),
                "kind": sample.kind,
                "tick": sample.tick,
                "attempt": sample.attempt,
                "rank": sample.rank,
                "time_ns": sample.time_ns,
            }
            for number, sample in enumerate(run.samples("full"))
        ]
    }


def config(run: Run) -> dict[str, Any]:
    """The config of the newest attempt, and what else is known of where the run comes from."""
    table = run.events()
    options, left_out = bounded(read_config(run, table))
    return {
        "config": options,
        "left_out": left_out,
        "versions": run.info.versions,
        "host": run.info.host,
        "git": run.info.git,
        "command": run.info.command,
        "changes": [
            {"attempt": event.attempt, "time_ns": event.time_ns, **event.fields}
            for event in read_events(table, "event = 'changed'")
            if event.rank == 0
        ],
    }


def comparison(a: Run, b: Run) -> dict[str, Any]:
    """What differs between two runs: options, versions, commits; and times and losses, if long."""
    found: dict[str, Any] = {
        "config": _differences(*(bounded(read_config(run, run.events()))[0] for run in (a, b))),
        "versions": _differences(a.info.versions, b.info.versions),
        "git": {"a": a.info.git, "b": b.info.git},
        "host": _differences(bounded(a.info.host)[0], bounded(b.info.host)[0]),
    }
    try:
        result = compare(a, b)
    except ConfigError as error:  # too short for an interval
        return found | {"statements": [], "measures": [], "notes": [printable(str(error))]}
    rows = {**result.measures, **{f"phase {name}": of for name, of in result.phases.items()}}
    return found | {
        "statements": [printable(text) for text in result.statements],
        "notes": [printable(text) for text in result.notes],
        "measures": [
            {"name": name, "unit": _unit(name), **msgspec.to_builtins(of)}
            for name, of in rows.items()
        ],
        "metric": result.metric,
        "losses": msgspec.to_builtins(result.losses),
    }


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """The options that differ; one that a side does not have is left out there."""
    sides = {"a": a, "b": b}
    return [
        {"key": name, **{side: has[name] for side, has in sides.items() if name in has}}
        for name in dict.fromkeys((*a, *b))
        if (name in a) != (name in b) or a[name] != b[name]
    ]


def _unit(name: str) -> str:
    if name.startswith("phase ") or name.endswith("_ns"):
        return "ns"
    return "bytes" if name.endswith("_bytes") else "1/s" if name.endswith("_per_second") else ""
