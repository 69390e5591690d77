"""Read a run, also while it is written: its ticks, events and resources as DuckDB relations.

| a row is in | it is read from | as a `Source` |
| --- | --- | --- |
| a Parquet part | the file | parts with the same columns together |
| a line that is not sealed, on a tape or in a ring | a temporary table | one for all tapes |
| an event `between` | the same | `Amendments`, which join the rows of their ticks |
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metronorm.errors import MetronormError
from metronorm.files import shown_path
from metronorm.markup import element
from metronorm.runs.amendments import Amendments, lines_between
from metronorm.runs.events import read_events
from metronorm.runs.history import BEGINNINGS, beginnings, left_behind
from metronorm.runs.samples import Sample, read_samples
from metronorm.runs.table import PLACE, Source, Table
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import (
    BROKEN,
    has_parquet_magic,
    is_of_kind,
    is_readable,
    out_of_memory,
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
from metronorm.store.schema import FIXED, KINDS, OPTIONAL, UNATTRIBUTED
from metronorm.store.sql_columns import identifier, literal, load_lines
from metronorm.store.unsealed_lines import is_sealed, read_tape

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import duckdb

    from metronorm.runs.history import LeftBehind
    from metronorm.store.parquet_parts import Schema


History = Literal["effective", "full"]
ORDERS = {
    "ticks": "tick, attempt, rank",
    "events": "time_ns, attempt, rank",
    "resources": "time_ns, attempt, rank",
}


def open_run(path: str | os.PathLike[str], *, verify: bool = False) -> Run:
    """Open a run directory for reading.

    Args:
        path: the directory of the run.
        verify: read every value of a Parquet part before it is used. Then a part that is damaged
            in the middle is left out, and `notices` reports it. Otherwise DuckDB raises an error
            when a query reaches the damage.

    Raises:
        RunError: there is no run, its `run.json` is damaged, or it has a newer schema.
    """
    return Run(Path(path), verify=verify)


def connect_reader() -> duckdb.DuckDBPyConnection:
    """A database that reads the end of every Parquet part once."""
    connection = connect()
    connection.execute("set parquet_metadata_cache = true")
    return connection


class Run:
    """A run on disk; `open_run` opens it.

    Every method reads the files again, so a run that is being written can be followed. `directory`
    is the absolute path, `info` the description that `run.json` holds.
    """

    def __init__(self, directory: Path, *, verify: bool = False) -> None:
        self.directory = directory.absolute()
        self.info: RunInfo = read_run_info(directory)  # (an error names the path as it was given)
        self._connection = connect_reader()
        self._numbers = itertools.count()
        self._verify = verify
        self._schemas: dict[Path, Schema] = {}  # of the parts that can be read

    def __repr__(self) -> str:
        return f"<Run {self.info.name!r} at {shown_path(self.directory)}>"

    def _repr_html_(self) -> str:
        """The run in a notebook; where it cannot be read, why."""
        import duckdb

        from metronorm.runs.run_html import run_html  # reads runs

        try:
            return run_html(self)
        except (MetronormError, duckdb.Error) as error:
            return element("div", repr(self), ": ", str(error))

    @property
    def attempts(self) -> list[int]:
        """The numbers of the attempts, in their order."""
        return [
            folder_number(path) for path in numbered_folders(self.directory / "ticks", "attempt")
        ]

    def ticks(self, history: History = "effective") -> Table:
        """One row per tick: `attempt, rank, tick, time_ns, wall_ns, beats`, `PHASE_ns`, metrics.

        Values that were logged after a tick, before the next one, are in the row of that tick.
        docs/runs.md has all columns and their units.

        Args:
            history: "effective": the ticks that led to the final parameters. After a resume each
                tick is there once: the newest attempt wins, and ticks of an older attempt from
                the point of resumption on are left out. "full": every tick of every attempt.

        Raises:
            RunError: a file of the run may not be read.
        """
        sources = self._load("ticks")
        where = "true"
        if history == "effective" and len(self.attempts) > 1:
            where = self._effective(sources)
        return self._table(sources, "ticks", where, self._amendments(sources))

    def _amendments(self, ticks: list[Source]) -> Amendments | None:
        # other events are not loaded: there may be many, and large ones
        events = self._load("events", containing=b'"between"')
        tapes = lines_between(self._table(events, "events"))
        if not tapes:
            return None
        table = f"between_{next(self._numbers)}"
        source = Source(load_lines(self._connection, "ticks", tapes, table), table)
        return Amendments(same_spelling([*ticks, source])[-1].columns, table)

    def ticks_with_resources(self, history: History = "effective") -> Table:
        """The table of `ticks`, each row with the newest sample of its process before its end.

        If a metric and a resource have the same name, the column is the metric.

        Args:
            history: see `ticks`.
        """
        ticks, resources = self.ticks(history), self.resources()
        own = {name.lower() for name in ticks.columns}
        sampled = [name for name in resources.columns if name.lower() not in own]
        number = next(self._numbers)
        ticks.relation.create_view(f"ticks_{number}")
        resources.relation.create_view(f"resources_{number}")
        columns = ", ".join(["t.*", *(f"r.{identifier(name)}" for name in sampled)])
        self._connection.execute(
            f"create temp view both_{number} as select {columns} "
            f"from ticks_{number} t asof left join resources_{number} r on "
            "t.attempt = r.attempt and t.rank = r.rank and t.time_ns >= r.time_ns"
        )
        names = [*ticks.columns, *sampled]
        source = Source({name: identifier(name) for name in names}, f"both_{number}")
        return Table(self._connection, [source], names, name="ticks", order=ORDERS["ticks"])

    def events(self) -> Table:
        """One row per event: `attempt, rank, tick, time_ns, event, fields` (JSON).

        Raises:
            RunError: a file of the run may not be read.
        """
        return self._table(self._load("events"), "events")

    def resources(self) -> Table:
        """One row per sample of a machine: `attempt, rank, tick, time_ns, memory_bytes, ...`.

        Raises:
            RunError: a file of the run may not be read.
        """
        return self._table(self._load("resources"), "resources")

    def samples(self, history: History = "effective") -> list[Sample]:
        """What `clock.sample` kept, sorted by tick.

        Args:
            history: "effective": of the ticks that led to the final parameters; "full": of all.

        Raises:
            RunError: a file of the run may not be read.
        """
        where = "true"
        if history == "effective" and len(self.attempts) > 1:
            where = self._effective(self._load("ticks"))
        events = self._load("events", containing=b'"sample"')
        return read_samples(self._table(events, "events", where), self.directory)

    def notices(self) -> list[str]:
        """One sentence for each place where damaged lines or parts were left out.

        Raises:
            RunError: a file of the run may not be read.
        """
        found = []
        for kind in KINDS:
            for folder in tape_folders(self.directory, kind):
                parts, lines = read_tape(folder, kind, self.info.id)
                found += lines.notices
                if lines.torn:
                    found.append(f"{folder}: the last line is torn and was left out")
                damaged = len(lines.damaged) + sum(
                    len(path.read_bytes().strip(b"\n").split(b"\n"))
                    for path in folder.glob("_part-*.damaged")
                    if path.is_file() and is_sealed(path)
                )
                if damaged:
                    found.append(f"{folder}: {damaged} damaged lines were left out")
                self._read_schemas(parts, kind)
                broken = [part for part in parts if part not in self._schemas]
                broken += sorted(folder.glob(f"*{BROKEN}"))
                found += [f"{path}: a damaged part was left out" for path in broken]
        return found

    def _table(
        self,
        sources: list[Source],
        kind: str,
        where: str = "true",
        amendments: Amendments | None = None,
    ) -> Table:
        columns = columns_of(sources, kind, amendments.columns if amendments else ())
        return Table(
            self._connection,
            sources,
            columns,
            name=kind,
            order=ORDERS[kind],
            where=where,
            amendments=amendments,
        )

    def left_behind(self) -> list[LeftBehind]:
        """The ticks of older attempts that are not in the effective history, and why.

        Raises:
            RunError: a file of the run may not be read.
        """
        return self._left_behind(self._load("ticks")) if len(self.attempts) > 1 else []

    def _left_behind(self, sources: list[Source]) -> list[LeftBehind]:
        rows = (
            self._table(sources, "ticks")
            .only("attempt", "tick")
            .fetch("select attempt, min(tick) from ticks group by attempt")
        )
        # other events are not loaded: there may be many, and large ones
        events = self._table(self._load("events", containing=b'"checkpoint"'), "events")
        names = ", ".join(map(literal, BEGINNINGS))
        return left_behind(beginnings(rows, read_events(events, f"event in ({names})")))

    def _effective(self, sources: list[Source]) -> str:
        """SQL of the effective history: the ticks that no later attempt has left behind.

        An attempt that resumes at a lower tick throws away all later ticks of older attempts, even
        if it has not reached their last tick yet.
        """
        gone = " or ".join(stretch.condition for stretch in self._left_behind(sources))
        return f"not ({gone})" if gone else "true"

    # --- from files to sources ------------------------------------------------------------------

    def _load(self, kind: str, containing: bytes = b"") -> list[Source]:
        """All Parquet parts of a kind, and those of its lines that contain these bytes."""
        parts: list[Path] = []
        tapes = []
        for folder in tape_folders(self.directory, kind):
            sealed, lines = read_tape(folder, kind, self.info.id)
            parts += sealed
            place = {"attempt": folder_number(folder.parent), "rank": folder_number(folder)}
            tapes.append((place, [line for line in lines.whole if containing in line]))
        sources = self._sealed(parts, kind)
        if any(lines for _, lines in tapes):
            table = f"live_{kind}_{next(self._numbers)}"
            sources.append(Source(load_lines(self._connection, kind, tapes, table), table))
        return same_spelling(sources) or [_nothing(kind)]

    def _sealed(self, parts: list[Path], kind: str) -> list[Source]:
        """The parts that can be read, those with the same columns as one source."""
        self._read_schemas(parts, kind)
        return part_sources(parts, self._schemas)

    def _read_schemas(self, parts: list[Path], kind: str) -> None:
        """Read the columns of the parts that are not known yet and can be read."""
        import duckdb

        parts = [part for part in parts if part not in self._schemas and has_parquet_magic(part)]
        if self._verify:
            parts = [part for part in parts if is_readable(part)]
        if not parts:
            return
        try:
            found = dict(zip(parts, schemas(self._connection, parts), strict=True))
            found = {part: schema for part, schema in found.items() if is_of_kind(schema, kind)}
            bad = with_gaps(self._connection, [*found], kind) if found else set()
            self._schemas |= {part: found[part] for part in found if part not in bad}
        except duckdb.OutOfMemoryException as error:
            raise out_of_memory(error) from None
        except duckdb.Error:
            self._connection = connect_reader()  # DuckDB may have given up the other
            half = len(parts) // 2  # one of the parts is damaged: halves find out which
            if half:
                self._read_schemas(parts[:half], kind)
                self._read_schemas(parts[half:], kind)


def part_sources(parts: Iterable[Path], known: Mapping[Path, Schema]) -> list[Source]:
    """The parts whose columns are known, those with the same columns as one source."""
    by_schema: dict[Schema, list[Path]] = {}
    for part in parts:
        if part in known:
            by_schema.setdefault(known[part], []).append(part)
    return [
        Source(
            PLACE | {name: identifier(name) for name, _ in schema},
            parts=tuple(same),
            types=dict(schema),
        )
        for schema, same in by_schema.items()
    ]


def same_spelling(sources: list[Source]) -> list[Source]:
    """Give names that differ in case only one spelling: SQL takes them for one column."""
    first: dict[str, str] = {}
    return [
        Source(
            {first.setdefault(name.lower(), name): sql for name, sql in source.columns.items()},
            source.rows,
            source.parts,
            {first[name.lower()]: sql_type for name, sql_type in source.types.items()},
        )
        for source in sources
    ]


def _nothing(kind: str) -> Source:
    """A source without rows, with the columns that every record of a kind has."""
    columns = {
        name: f"null::{'VARCHAR' if name in ('event', 'fields') else 'BIGINT'}"
        for name in ("attempt", "rank", *FIXED[kind])
        if name not in OPTIONAL
    }
    return Source(columns, rows="(select 1 where false)")


def columns_of(sources: Iterable[Source], kind: str, others: Iterable[str] = ()) -> list[str]:
    """The columns of sources, and others, in the order of a table.

    That is: fixed ones, phases, `unattributed_ns`, metrics.
    """
    own = ["attempt", "rank", *FIXED[kind]]
    rest = f"{UNATTRIBUTED}_ns"

    def place(name: str) -> int:
        if name in own:
            return own.index(name) - len(own)
        return 2 * (not name.endswith("_ns") or kind != "ticks") + (name == rest)

    columns = [name for source in sources for name in source.columns]
    return sorted(dict.fromkeys([*columns, *others]), key=place)
