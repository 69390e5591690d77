"""The events of a run, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from metronorm.runs.table import Table


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
    rows = events.fetch(
        f"""select event, attempt, rank, tick, time_ns, fields::VARCHAR from events
            where {where} order by time_ns, rank"""
    )
    return [
        Event(name, attempt, rank, tick, time_ns, _decoded(fields))
        for name, attempt, rank, tick, time_ns, fields in rows
    ]


def _decoded(fields: str | None) -> dict[str, Any]:
    decoded = msgspec.json.decode(fields) if fields else {}
    return decoded if isinstance(decoded, dict) else {}
