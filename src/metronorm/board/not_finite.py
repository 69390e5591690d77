"""Which runs have NaN or infinities, anywhere in their history: in every attempt and rank.

| what | is looked at |
| --- | --- |
| ticks that are sealed | the statistics of their columns, once; columns that lack some are read |
| events that are sealed | values that were logged between ticks, once |
| lines that are not sealed | again when there are more |
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from metronorm.board.entry import file_stamp
from metronorm.errors import MetronormError
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import FILE, WITH_FILE, files_of, has_parquet_magic, scan
from metronorm.store.run_directory import tape_folders
from metronorm.store.sql_columns import identifier, literal
from metronorm.store.unsealed_lines import read_tape, sealed_parts, unsealed_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import duckdb

    from metronorm.board.entry import Entry

AT_ONCE = 200  # parts in one query
_NAN, _INF = re.compile(rb':\s*"nan"'), re.compile(rb':\s*"-?inf"')
_EVENTS = ("between", "not finite")  # that have values


class Bad(NamedTuple):
    """Whether there is such a value."""

    nan: bool
    inf: bool


class _Part(NamedTuple):
    """A sealed part, as it was when it was read."""

    kind: str
    path: Path
    stamp: tuple[int, ...]


NOTHING = Bad(False, False)


class NotFinite:
    """Looks for values that are not finite, and keeps what it has found.

    Its methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[_Part, Bad] = {}
        self._lines: dict[Path, tuple[object, Bad]] = {}  # of a tape, with what names its lines

    def find(self, entries: Iterable[Entry], *, seconds: float) -> dict[str, Bad]:
        """What the runs have, by their ids; what cannot be read has nothing.

        Args:
            entries: all runs that there are; what was found of others is forgotten.
            seconds: after this time no more files are read.

        Returns:
            Without the runs that are left to read.
        """
        until = time.monotonic() + seconds
        with self._lock:
            tapes = {entry.id: [*self._tapes(entry, until)] for entry in entries}
            parts = [part for own in tapes.values() for found, _ in own for part in found]
            self._forget(parts)
            for kind, query in (("ticks", _bad_columns), ("events", _bad_events)):
                new = [part for part in parts if part.kind == kind and part not in self._parts]
                while new and time.monotonic() < until:
                    batch, new = new[:AT_ONCE], new[AT_ONCE:]
                    bad = _query([part.path for part in batch], query)
                    self._parts |= {part: bad.get(part.path, NOTHING) for part in batch}
            found: dict[str, Bad] = {}
            for run, own in tapes.items():
                pieces = [lines for _, lines in own]
                pieces += [self._parts.get(part) for parts, _ in own for part in parts]
                known = [piece for piece in pieces if piece is not None]
                if len(known) == len(pieces):
                    found[run] = Bad(any(it.nan for it in known), any(it.inf for it in known))
            return found

    def _forget(self, parts: Iterable[_Part]) -> None:
        """Keep nothing of parts and tapes that are gone."""
        self._parts = {part: self._parts[part] for part in parts if part in self._parts}
        self._lines = {
            folder: own for folder, own in self._lines.items() if file_stamp(str(folder))
        }

    def _tapes(self, entry: Entry, until: float) -> Iterator[tuple[list[_Part], Bad | None]]:
        """Of each tape its parts, and what its lines have; None: they are left to read."""
        if entry.info is None:
            return
        for kind in ("ticks", "events"):
            try:
                for folder in tape_folders(entry.directory, kind):
                    parts = [
                        _Part(kind, part, file_stamp(str(part)))
                        for part in sealed_parts(folder)
                        if has_parquet_magic(part)
                    ]
                    yield parts, self._in_lines(folder, kind, entry.info.id, until)
            except (OSError, MetronormError):  # it was sealed meanwhile, or may not be read
                continue

    def _in_lines(self, folder: Path, kind: str, identity: str, until: float) -> Bad | None:
        files = {path.name: file_stamp(str(path)) for path in unsealed_files(folder)}
        if not any(stamp and stamp[1] for stamp in files.values()):  # its size
            return NOTHING
        known, bad = self._lines.get(folder, (None, NOTHING))
        name = identity, files
        if known != name:
            if time.monotonic() > until:
                return None
            bad = _bad_lines(folder, kind, identity)
            self._lines[folder] = name, bad
        return bad


def _bad_lines(folder: Path, kind: str, identity: str) -> Bad:
    _, lines = read_tape(folder, kind, identity)
    names = [f'"{name}"'.encode() for name in _EVENTS]
    text = b"".join(
        line for line in lines.whole if kind == "ticks" or any(name in line for name in names)
    )
    return Bad(bool(_NAN.search(text)), bool(_INF.search(text)))


def _query(
    parts: list[Path],
    query: Callable[[duckdb.DuckDBPyConnection, Sequence[Path]], dict[Path, Bad]],
) -> dict[Path, Bad]:
    """What a query finds in parts; damaged ones are left out."""
    import duckdb

    if not parts:
        return {}
    try:
        with connect(threads=1) as connection:
            return query(connection, parts)
    except (duckdb.Error, UnicodeDecodeError, MetronormError):
        half = len(parts) // 2
        return _query(parts[:half], query) | _query(parts[half:], query) if half else {}


def _bad_columns(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path]) -> dict[Path, Bad]:
    """Of parts of ticks. A column that is all finite has a lowest and a highest value on record."""
    rows = connection.execute(
        f"""select file_name, list(distinct path_in_schema) from parquet_metadata({files_of(parts)})
            where type in ('DOUBLE', 'FLOAT') and coalesce(stats_null_count, 0) < num_values
            and not coalesce(isfinite(try_cast(stats_min_value as double))
                             and isfinite(try_cast(stats_max_value as double)), false)
            group by file_name"""
    ).fetchall()
    by_path = {str(part.resolve()): part for part in parts}
    found = {}
    for path, names in rows:
        part = by_path[path]
        anywhere = [
            " or ".join(f"coalesce(bool_or({test}({identifier(name)})), false)" for name in names)
            for test in ("isnan", "isinf")
        ]
        row = connection.execute(f"select {', '.join(anywhere)} from {scan([part])}").fetchone()
        found[part] = Bad(*(row or (False, False)))
    return found


def _bad_events(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path]) -> dict[Path, Bad]:
    """Of parts of events."""
    names = ", ".join(map(literal, _EVENTS))
    tests = ", ".join(
        f"bool_or(regexp_matches(fields::VARCHAR, {literal(test.pattern.decode())}))"
        for test in (_NAN, _INF)
    )
    rows = connection.execute(
        f"""select {FILE}, {tests}
            from {scan(parts, WITH_FILE)}
            where event in ({names}) group by {FILE}"""
    ).fetchall()
    by_path = {str(part.resolve()): part for part in parts}
    return {by_path[path]: Bad(bool(nan), bool(inf)) for path, nan, inf in rows}
