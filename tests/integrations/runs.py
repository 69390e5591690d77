"""Reads runs that a framework has made."""

import json
from typing import Any

from metronorm.runs import Run

NO_PHASES = ("time_ns", "wall_ns", "clock_ns", "arrival_ns", "gc_ns")


def phases(row: dict[str, Any]) -> dict[str, int]:
    """The phases of a tick that took any time."""
    names = [name for name in row if name.endswith("_ns") and name not in NO_PHASES]
    return {name.removesuffix("_ns"): row[name] for name in names if row[name]}


def whole(rows: list[dict[str, Any]]) -> bool:
    """Return whether the phases of every tick add up to its wall time."""
    return all(sum(phases(row).values()) == row["wall_ns"] for row in rows)


def ticks_with(rows: list[dict[str, Any]], column: str) -> list[int]:
    return [row["tick"] for row in rows if row[column] is not None]


def numbers(run: Run) -> list[tuple[int, int]]:
    """Attempt and tick of the effective history."""
    return [(row["attempt"], row["tick"]) for row in run.ticks().rows()]


def events(run: Run, name: str) -> list[tuple[int, int, Any]]:
    """Attempt, tick and fields of the events of this name."""
    return [
        (row["attempt"], row["tick"], json.loads(row["fields"]))
        for row in run.events().rows()
        if row["event"] == name
    ]


def errors(run: Run) -> list[str | None]:
    """The error that ended each attempt that has ended; None without one."""
    return [fields.get("error") for _, _, fields in events(run, "end")]
