"""Reads runs that were imported, or written by a drop-in."""

import json
from pathlib import Path
from typing import Any

from metronorm.runs import open_run


def ticks(directory: Path, *columns: str, history: Any = "effective") -> list[tuple[Any, ...]]:
    """Columns of a run's ticks, by attempt and tick."""
    listed = ", ".join(f'"{column}"' for column in columns)
    table = open_run(directory).ticks(history)
    return table.sql(f"select {listed} from ticks order by attempt, tick").fetchall()


def events(directory: Path, name: str) -> list[dict[str, Any]]:
    """The fields of the events of a name, with the tick that they are `at`."""
    rows = (
        open_run(directory)
        .events()
        .sql(f"select tick, fields from events where event = '{name}' order by time_ns")
    )
    return [{"at": tick, **json.loads(fields)} for tick, fields in rows.fetchall()]
