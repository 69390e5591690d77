"""The events that change ticks: values logged between them, and where attempts begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.runs.events import Event
from metronorm.runs.following.tail import Tail
from metronorm.runs.history import BEGINNINGS
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import FILE, WITH_FILE, has_parquet_magic, out_of_memory, scan
from metronorm.store.run_directory import folder_number
from metronorm.store.sql_columns import literal
from metronorm.store.unsealed_lines import DECODERS, read_tape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Row = tuple[str, int, int, str | None]  # event, tick, time_ns and fields, as JSON

_NAMES = ("between", *BEGINNINGS)


class EventTape:
    """The events `between`, `resume` and `branch` of one rank in one attempt.

    Args:
        folder: the folder of the tape.
        identity: the `id` of the run.
        ahead: what `read_sealed` has read already.
    """

    def __init__(
        self, folder: Path, identity: str, ahead: Mapping[Path, list[Row]] | None = None
    ) -> None:
        self._folder, self._identity = folder, identity
        self._ahead = dict(ahead or {})
        self._place = folder_number(folder.parent), folder_number(folder)
        self._tail: Tail | None = None
        self._seen: set[tuple[int, str, int]] = set()

    def read(self) -> list[Event]:
        """The events that were not returned before.

        Raises:
            RunError: a file may not be read.
        """
        records = self._tail.read() if self._tail else None
        if records is not None:
            return self._new([self._event(record) for record in records])
        # the tail first: what comes meanwhile is then met twice, but not missed
        self._tail = Tail(self._folder, "events", self._identity)
        parts, lines = read_tape(self._folder, "events", self._identity)
        decode = DECODERS["events"].decode
        found = [self._event(decode(line)) for line in lines.whole if _concerns(line)]
        return self._new([*self._sealed(parts), *found])

    def _event(self, record: Any) -> Event:
        attempt, rank = self._place
        return Event(record.event, attempt, rank, record.tick, record.time_ns, record.fields)

    def _new(self, events: list[Event]) -> list[Event]:
        new = []
        for event in events:
            key = event.time_ns, event.name, event.tick
            if event.name in _NAMES and key not in self._seen:
                self._seen.add(key)
                new.append(event)
        return new

    def _sealed(self, parts: list[Path]) -> list[Event]:
        attempt, rank = self._place
        if all(part in self._ahead for part in parts):
            found = {part: self._ahead.pop(part) for part in parts}
        else:
            found = read_sealed(parts)
        return [
            Event(name, attempt, rank, tick, time_ns, _decoded(fields))
            for rows in found.values()
            for name, tick, time_ns, fields in rows
        ]


def read_sealed(parts: Sequence[Path]) -> dict[Path, list[Row]]:
    """The rows of these events in Parquet parts that may be of many runs.

    Those of a damaged part are left out: `notices` of its run says so.

    Raises:
        OutOfMemoryError: reading them takes more memory than there is.
        RunError: a file may not be read.
    """
    import duckdb

    found: dict[Path, list[Row]] = {part: [] for part in parts}
    whole = {str(part.resolve()): part for part in parts if has_parquet_magic(part)}
    if not whole:
        return found
    names = ", ".join(map(literal, _NAMES))
    query = f"""select {FILE}, event, tick, time_ns, fields::VARCHAR
                from {scan(whole.values(), WITH_FILE)}
                where event in ({names}) order by time_ns"""
    try:
        with connect() as database:
            for path, *row in database.execute(query).fetchall():
                found[whole[path]].append(tuple(row))
    except duckdb.OutOfMemoryException as error:
        raise out_of_memory(error) from None
    except duckdb.Error:
        half = len(parts) // 2
        return read_sealed(parts[:half]) | read_sealed(parts[half:]) if half else found
    return found


def _decoded(fields: str | None) -> dict[str, Any]:
    decoded = msgspec.json.decode(fields) if fields else {}
    return decoded if isinstance(decoded, dict) else {}


def _concerns(line: bytes) -> bool:
    return any(name.encode() in line for name in _NAMES)
