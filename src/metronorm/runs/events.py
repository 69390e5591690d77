"""The events of a run, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.runs.table import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.runs.table import Table

_FIELDS = "event, attempt, rank, tick, time_ns, fields::VARCHAR"


@dataclass(frozen=True)
class Event:
    """Something that happened, as `clock.event` recorded it; `time_ns` is since 1970."""

    name: str
    attempt: int
    rank: int
    tick: int
    time_ns: int
    fields: dict[str, Any]

    def number(self, name: str) -> float:
        """A field as a number; 0 if it is not a number."""
        value = self.fields.get(name)
        return float(value) if isinstance(value, int | float) else 0.0


def read_events(events: Table, where: str) -> list[Event]:
    """Read some events, in the order of their time.

    Args:
        events: the table, from `run.events()`.
        where: the condition in SQL.
    """
    rows = events.fetch(f"select {_FIELDS} from events where {where} order by time_ns, rank")
    return [_event(*row) for row in rows]


def read_events_by_run(events: Table, where: str) -> dict[str, list[Event]]:
    """As `read_events`, for a table of several runs: the events of each run that has any.

    Args:
        events: a table with the column `RUN`.
        where: the condition in SQL.
    """
    rows = events.fetch(f"select {RUN}, {_FIELDS} from events where {where} order by time_ns, rank")
    found: dict[str, list[Event]] = {}
    for run, *row in rows:
        found.setdefault(run, []).append(_event(*row))
    return found


def named(events: Iterable[Event], *names: str) -> list[Event]:
    """Those of the events that have one of these names."""
    return [event for event in events if event.name in names]


def _event(
    name: str, attempt: int, rank: int, tick: int, time_ns: int, fields: str | None
) -> Event:
    return Event(name, attempt, rank, tick, time_ns, _decoded(fields))


def _decoded(fields: str | None) -> dict[str, Any]:
    decoded = msgspec.json.decode(fields) if fields else {}
    return decoded if isinstance(decoded, dict) else {}
