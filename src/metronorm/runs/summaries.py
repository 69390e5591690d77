"""Summaries of many runs: what is sealed of them is read together.

A query takes milliseconds, most of them to be planned, also where a run has few ticks. So runs
whose tables have the same columns share their queries, if they are like most runs of a sweep:

| a run | is read |
| --- | --- |
| of one attempt, all of it sealed, with nothing logged between ticks | with others like it |
| any other: being written, killed, resumed, damaged, or large | by itself |
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import MetronormError
from metronorm.runs.events import named, read_events_by_run
from metronorm.runs.reader import ORDERS, columns_of, connect_reader, part_sources, same_spelling
from metronorm.runs.samples import samples_of
from metronorm.runs.summary import NEEDED, Known, straggler_of, summary_of
from metronorm.runs.summing import Sums, read_peaks, read_sums
from metronorm.runs.table import RUN, Table
from metronorm.store.parquet_parts import (
    BROKEN,
    FILE,
    has_parquet_magic,
    is_of_kind,
    schemas,
    with_gaps,
)
from metronorm.store.run_directory import (
    RunInfo,
    folder_number,
    numbered_folders,
    read_run_info,
    tape_folders,
)
from metronorm.store.schema import KINDS
from metronorm.store.unsealed_lines import read_tape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import duckdb

    from metronorm.runs.summary import Summary
    from metronorm.store.parquet_parts import Schema

AT_ONCE = 100  # runs
MOST_BYTES = 32 << 20  # of the ticks of a run that is read with others, and of all of them
# the run of a part, by the part's path
_RUN_OF = rf"regexp_extract({FILE}, '(?s)^(.*)/[^/]*/attempt=\d+/rank=\d+/[^/]*$', 1)"


@dataclass(frozen=True)
class _Sealed:
    """A run that may be read with others."""

    path: Path
    info: RunInfo
    attempt: int
    parts: dict[str, list[Path]]  # by kind
    size: int
    key: str  # what the column `RUN` has in its rows


def summaries(paths: Iterable[Path]) -> dict[Path, Summary]:
    """The summaries, without curves, of those runs that can be read together.

    All others are left out, whatever the reason: `summarize` reads them, or says what is wrong.
    """
    found: dict[Path, Summary] = {}
    batch: dict[str, _Sealed] = {}  # two paths may lead to one run
    for path in dict.fromkeys(paths):
        run = _sealed(path)
        if run is None or run.key in batch:
            continue
        if len(batch) == AT_ONCE or sum(one.size for one in batch.values()) + run.size > MOST_BYTES:
            found |= _together([*batch.values()])
            batch = {}
        batch[run.key] = run
    return found | _together([*batch.values()])


def _sealed(path: Path) -> _Sealed | None:
    """A run that can be read with others; None if it must be read by itself."""
    try:
        info = read_run_info(path)
        (attempt,) = numbered_folders(path / "ticks", "attempt")
        parts = {kind: _parts(path, kind, info.id) for kind in KINDS}
        size = sum(part.stat().st_size for part in parts["ticks"])
    except (MetronormError, OSError, ValueError):
        return None
    if size > MOST_BYTES or not parts["ticks"] or not parts["events"]:
        return None
    return _Sealed(path, info, folder_number(attempt), parts, size, str(path.resolve()))


def _parts(path: Path, kind: str, identity: str) -> list[Path]:
    """The parts that have all records of a kind.

    Raises:
        ValueError: there are other records, or a link leads to a part elsewhere, whose path would
            not name the run.
    """
    found = []
    for folder in tape_folders(path, kind):
        parts, lines = read_tape(folder, kind, identity)
        if lines.whole or lines.damaged or lines.torn or lines.notices:
            raise ValueError(folder)
        if any(folder.glob("_part-*.damaged")) or any(folder.glob(f"*{BROKEN}")):
            raise ValueError(folder)
        found += parts
    home = path.resolve()
    for part in found:
        if part.resolve().parents[3] != home or not has_parquet_magic(part):
            raise ValueError(part)
    return found


def _together(runs: Sequence[_Sealed]) -> dict[Path, Summary]:
    """Read runs together; those that cannot be read so are left out."""
    import duckdb

    if not runs:
        return {}
    try:
        return _Batch(runs).summaries()
    except (duckdb.Error, MetronormError):  # one of them is damaged: halves find out which
        half = len(runs) // 2
        return _together(runs[:half]) | _together(runs[half:]) if half else {}


class _Batch:
    """Runs that are read together, in a database of their own."""

    def __init__(self, runs: Sequence[_Sealed]) -> None:
        self._connection = connect_reader()
        self._schemas = {kind: _schemas(self._connection, runs, kind) for kind in KINDS}
        self._runs = [
            run
            for run in runs
            if all(part in self._schemas[kind] for kind in KINDS for part in run.parts[kind])
        ]

    def summaries(self) -> dict[Path, Summary]:
        """Of each run; runs of which ticks have later values are left out."""
        events = {
            run: found
            for same in self._alike("events", self._runs)
            for run, found in read_events_by_run(
                self._table("events", same), f"{NEEDED} or event = 'between'"
            ).items()
        }
        peaks = {
            run: peak
            for same in self._alike("resources", self._runs)
            for run, peak in read_peaks(self._table("resources", same)).items()
        }
        known = {
            run.key: Known(
                run.info,
                run.path.absolute(),
                [run.attempt],
                self._table("ticks", [run], with_run=False),
                events.get(run.key, []),
            )
            for run in self._runs
        }
        plain = [run for run in self._runs if not named(known[run.key].events, "between")]
        found: dict[str, Sums] = {}
        for same in self._alike("ticks", plain):
            by_wanted = defaultdict(list)
            for run in same:
                by_wanted[tuple(known[run.key].measured.items())].append(run)
            for alike in by_wanted.values():
                one = known[alike[0].key]
                sums = read_sums(self._table("ticks", alike), one.summed, one.measured)
                found |= {run.key: sums.get(run.key, Sums()) for run in alike}
        return {
            run.path: summary_of(
                one := known[run.key],
                own := found[run.key],
                straggler=straggler_of(one.ticks, own),
                peak_memory_bytes=peaks.get(run.key),
                goodput=None,
                samples=len(samples_of(named(one.events, "sample"), one.directory)),
                curves={},
                notices=[],
            )
            for run in plain
        }

    def _alike(self, kind: str, runs: Iterable[_Sealed]) -> Iterable[list[_Sealed]]:
        """The runs in groups whose parts have the same columns, of the same types."""
        groups: dict[tuple[Schema, ...], list[_Sealed]] = {}
        for run in runs:
            columns = dict.fromkeys(self._schemas[kind][part] for part in run.parts[kind])
            if columns:
                groups.setdefault((*columns,), []).append(run)
        return groups.values()

    def _table(self, kind: str, runs: Iterable[_Sealed], *, with_run: bool = True) -> Table:
        """The rows of runs that are alike; `with_run`: and the column `RUN`."""
        parts = [part for run in runs for part in run.parts[kind]]
        sources = same_spelling(part_sources(parts, self._schemas[kind]))
        columns = columns_of(sources, kind)
        if with_run:
            sources = [replace(one, columns={RUN: _RUN_OF} | one.columns) for one in sources]
            columns = [RUN, *columns]
        return Table(self._connection, sources, columns, name=kind, order=ORDERS[kind])


def _schemas(
    connection: duckdb.DuckDBPyConnection, runs: Iterable[_Sealed], kind: str
) -> dict[Path, Schema]:
    """The columns of the parts of a kind that hold such records."""
    parts = [part for run in runs for part in run.parts[kind]]
    if not parts:
        return {}
    read = dict(zip(parts, schemas(connection, parts), strict=True))
    found = {part: schema for part, schema in read.items() if is_of_kind(schema, kind)}
    bad = with_gaps(connection, [*found], kind) if found else set()
    return {part: schema for part, schema in found.items() if part not in bad}
