"""The records of a run, in the form in which the clock got the values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from metronorm.runs import open_run

if TYPE_CHECKING:
    from pathlib import Path


def ticks(run: Path, attempt: int = 0) -> list[dict[str, Any]]:
    """The ticks of an attempt, with phases and metrics in dicts, without missing values."""
    table = open_run(run).ticks("full")
    return [
        {name: row[name] for name in ("tick", "time_ns", "wall_ns", "beats")}
        | {
            "phases": {name: ns for name in table.phases if (ns := row[f"{name}_ns"]) is not None},
            "metrics": {name: row[name] for name in table.metrics if row[name] is not None},
        }
        for row in table.rows()
        if row["attempt"] == attempt
    ]


def events(run: Path, attempt: int = 0) -> list[dict[str, Any]]:
    """The events of an attempt, but for pauses of the collector, which depend on the machine."""
    return [event for event in all_events(run, attempt) if event["event"] != "gc"]


def all_events(run: Path, attempt: int = 0) -> list[dict[str, Any]]:
    """The events of an attempt."""
    return [
        row | {"fields": json.loads(row["fields"])}
        for row in open_run(run).events().rows()
        if row["attempt"] == attempt
    ]
