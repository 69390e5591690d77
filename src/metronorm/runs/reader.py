"""Read a run: its ticks, events and resources as DuckDB relations, also while it is written."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metronorm.runs.amendments import Amendments, lines_between
from metronorm.runs.table import PLACE, Source, Table
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import (
    BROKEN,
    has_parquet_magic,
    is_readable,
    out_of_memory,
    schemas,
)
from metronorm.store.run_directory import (
    RunInfo,
    folder_number,
    numbered_folders,
    read_run_info,
    tape_folders,
)
from metronorm.store.schema import FIXED, KINDS, OPTIONAL, UNATTRIBUTED
from metronorm.store.sql_columns import identifier, load_lines
from metronorm.store.unsealed_lines import is_sealed, read_tape

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

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
        path: of the directory.
        verify: read every value of the sealed parts first, so that one with a hole in the middle
            is left out and told of, too; else it is an error of DuckDB when it is come to.

    Raises:
        RunError: no run there, a damaged `run.json`, or one of a newer schema.
    """
    return Run(Path(path), verify=verify)


class Run:
    """A run on disk. Every reading looks at the files anew, so a live run can be followed."""

    def __init__(self, directory: Path, *, verify: bool = False) -> None:

        self.directory = directory.absolute()
        self.info: RunInfo = read_run_info(directory)  # (an error names it as it was given)
        self._connection = connect()
        self._connection.execute("set parquet_metadata_cache = true")
        self._numbers = itertools.count()
        self._verify = verify
        self._schemas: dict[Path, Schema] = {}  # of parts that are not damaged

    def __repr__(self) -> str:
        return f"<Run {self.info.name!r} at {self.directory}>"

    @property
    def attempts(self) -> list[int]:
        """Numbers of the attempts that were begun."""
        return [
            folder_number(path) for path in numbered_folders(self.directory / "ticks", "attempt")
        ]

    def ticks(self, history: History = "effective") -> Table:
        """One row per tick: `attempt, rank, tick, time_ns, wall_ns, beats`, `PHASE_ns`, metrics.

        The *effective* history is the run as its final parameters lived it: after a resume each
        tick stands once, the newest attempt wins, and what an older attempt did beyond the point
        of resumption is left out. The *full* history has every tick of every attempt. What was
        logged after a tick, before the next one, stands in its row.
        """
        sources = self._load("ticks")
        where = "true"
        if history == "effective" and len(self.attempts) > 1:
            where = self._effective(sources)
        return self._table(sources, "ticks", where, self._amendments(sources))

    def _amendments(self, ticks: list[Source]) -> Amendments | None:
        events = self._load("events", b'"between"')  # not all: others may be large, and many
        tapes = lines_between(self._table(events, "events"))
        if not tapes:
            return None
        table = f"between_{next(self._numbers)}"
        source = Source(load_lines(self._connection, "ticks", tapes, table), table)
        return Amendments(_same_spelling([*ticks, source])[-1].columns, table)

    def ticks_with_resources(self, history: History = "effective") -> Table:
        """As `ticks`, each with the newest sample of its process at that time.

        Of a metric and a resource with the same name it is the metric.
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
        """One row per event: `attempt, rank, tick, time_ns, event, fields` (JSON)."""
        return self._table(self._load("events"), "events")

    def resources(self) -> Table:
        """One row per sample: `attempt, rank, tick, time_ns, memory_bytes, ...`."""
        return self._table(self._load("resources"), "resources")

    def notices(self) -> list[str]:
        """What a reader should know: lines and parts that are damaged and were left out."""
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
                self._look_at([part for part in parts if part not in self._schemas])
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
        columns = [name for source in sources for name in source.columns]
        columns += amendments.columns if amendments else ()
        return Table(
            self._connection,
            sources,
            _in_order(dict.fromkeys(columns), kind),
            name=kind,
            order=ORDERS[kind],
            where=where,
            amendments=amendments,
        )

    def _effective(self, sources: list[Source]) -> str:
        """SQL: whether no later attempt has done a tick again, or gone back behind it."""
        rows = (
            self._table(sources, "ticks")
            .only("attempt", "tick")
            .sql("select attempt, min(tick) from ticks group by attempt order by attempt desc")
            .fetchall()
        )
        conditions, resumed = [], None
        for attempt, first in rows:
            before = "" if resumed is None else f" and tick < {resumed}"
            conditions.append(f"(attempt = {attempt}{before})")
            resumed = first if resumed is None else min(first, resumed)
        return " or ".join(conditions) or "true"

    # --- from files to sources ------------------------------------------------------------------

    def _load(self, kind: str, having: bytes = b"") -> list[Source]:
        """All parts of a kind, and its lines; those in which there is `having`."""
        parts: list[Path] = []
        tapes = []
        for folder in tape_folders(self.directory, kind):
            sealed, lines = read_tape(folder, kind, self.info.id)
            parts += sealed
            place = {"attempt": folder_number(folder.parent), "rank": folder_number(folder)}
            tapes.append((place, [line for line in lines.whole if having in line]))
        sources = self._sealed(parts)
        if any(lines for _, lines in tapes):
            table = f"live_{kind}_{next(self._numbers)}"
            sources.append(Source(load_lines(self._connection, kind, tapes, table), table))
        return _same_spelling(sources) or [_nothing(kind)]

    def _sealed(self, parts: list[Path]) -> list[Source]:
        """The parts that can be read, by their columns."""
        self._look_at([part for part in parts if part not in self._schemas])
        alike: dict[Schema, list[Path]] = {}
        for part in parts:
            if part in self._schemas:
                alike.setdefault(self._schemas[part], []).append(part)
        return [
            Source(
                PLACE | {name: identifier(name) for name, _ in schema},
                parts=tuple(inside),
                forms=dict(schema),
            )
            for schema, inside in alike.items()
        ]

    def _look_at(self, parts: list[Path]) -> None:
        """Learn the columns of parts; of those that can be read."""
        import duckdb

        parts = [part for part in parts if has_parquet_magic(part)]
        if self._verify:
            parts = [part for part in parts if is_readable(self._connection, part)]
        if not parts:
            return
        try:
            self._schemas |= zip(parts, schemas(self._connection, parts), strict=True)
        except duckdb.OutOfMemoryException as error:
            raise out_of_memory(error) from None
        except duckdb.Error:
            half = len(parts) // 2  # to find out which
            if half:
                self._look_at(parts[:half])
                self._look_at(parts[half:])


def _same_spelling(sources: list[Source]) -> list[Source]:
    """Names that SQL takes for the same are the same column."""
    first: dict[str, str] = {}
    return [
        Source(
            {first.setdefault(name.lower(), name): sql for name, sql in source.columns.items()},
            source.rows,
            source.parts,
            {first[name.lower()]: form for name, form in source.forms.items()},
        )
        for source in sources
    ]


def _nothing(kind: str) -> Source:
    columns = {
        name: f"null::{'VARCHAR' if name in ('event', 'fields') else 'BIGINT'}"
        for name in ("attempt", "rank", *FIXED[kind])
        if name not in OPTIONAL
    }
    return Source(columns, rows="(select 1 where false)")


def _in_order(columns: Iterable[str], kind: str) -> list[str]:
    """The record's own first, then phases, the rest of the time, metrics."""
    own = ["attempt", "rank", *FIXED[kind]]
    rest = f"{UNATTRIBUTED}_ns"

    def place(name: str) -> int:
        if name in own:
            return own.index(name) - len(own)
        return 2 * (not name.endswith("_ns") or kind != "ticks") + (name == rest)

    return sorted(columns, key=place)
