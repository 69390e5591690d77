"""Read a run: its ticks, events and resources as DuckDB relations, also while it is written."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metronorm.clock.ledger import UNATTRIBUTED
from metronorm.clock.run import RunInfo, number, numbered, read_run_info, tape_folders
from metronorm.clock.store.columns import FIXED, columns_of, identifier
from metronorm.clock.store.lines import is_sealed, read_tape
from metronorm.clock.store.parts import BROKEN, binds, is_readable, looks_whole, scan
from metronorm.clock.table import Table

if TYPE_CHECKING:
    import os


History = Literal["effective", "full"]


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
        import duckdb

        self.directory = directory
        self.info: RunInfo = read_run_info(directory)
        self._connection = duckdb.connect()
        self._connection.execute("set parquet_metadata_cache = true")
        self._numbers = itertools.count()
        self._is_readable = is_readable if verify else binds
        self._read: set[Path] = set()  # parts that are not damaged

    def __repr__(self) -> str:
        return f"<Run {self.info.name!r} at {self.directory}>"

    @property
    def attempts(self) -> list[int]:
        """Numbers of the attempts that were begun."""
        return [number(path) for path in numbered(self.directory / "ticks", "attempt")]

    def ticks(self, history: History = "effective") -> Table:
        """One row per tick: `attempt, rank, tick, time_ns, wall_ns, beats`, `PHASE_ns`, metrics.

        The *effective* history is the run as its final parameters lived it: after a resume each
        tick stands once, the newest attempt wins, and what an older attempt did beyond the point
        of resumption is left out. The *full* history has every tick of every attempt.
        """
        view = self._load("ticks")
        rows = f"select * from {view}"
        if history == "effective" and len(self.attempts) > 1:
            rows = self._effective(view)
        return Table(self._connection.sql(rows), "ticks", "tick, attempt, rank")

    def ticks_with_resources(self, history: History = "effective") -> Table:
        """As `ticks`, each with the newest sample of its process at that time.

        Of a metric and a resource with the same name it is the metric.
        """
        ticks, resources = self.ticks(history), self.resources()
        own = {name.lower() for name in ticks.columns}
        sampled = [identifier(name) for name in resources.columns if name.lower() not in own]
        names = [f"ticks_{next(self._numbers)}", f"resources_{next(self._numbers)}"]
        ticks.relation.create_view(names[0])
        resources.relation.create_view(names[1])
        columns = ", ".join(["t.*", *(f"r.{name}" for name in sampled)])
        rows = self._connection.sql(
            f"select {columns} from {names[0]} t asof left join {names[1]} r on "
            "t.attempt = r.attempt and t.rank = r.rank and t.time_ns >= r.time_ns"
        )
        return Table(rows, "ticks", "tick, attempt, rank")

    def events(self) -> Table:
        """One row per event: `attempt, rank, tick, time_ns, event, fields` (JSON)."""
        return self._plain("events")

    def resources(self) -> Table:
        """One row per sample: `attempt, rank, tick, time_ns, memory_bytes, ...`."""
        return self._plain("resources")

    def notices(self) -> list[str]:
        """What a reader should know: lines and parts that are damaged and were left out."""
        found = []
        for kind in ("ticks", "events", "resources"):
            for folder in tape_folders(self.directory, kind):
                parts, lines = read_tape(folder, kind, self.info.id)
                if lines.torn:
                    found.append(f"{folder}: the last line is torn and was left out")
                damaged = len(lines.damaged) + sum(
                    len(path.read_bytes().strip(b"\n").split(b"\n"))
                    for path in folder.glob("_part-*.damaged")
                    if is_sealed(path)
                )
                if damaged:
                    found.append(f"{folder}: {damaged} damaged lines were left out")
                broken = [path for path in parts if not self._readable(path)]
                broken += sorted(folder.glob(f"*{BROKEN}"))
                found += [f"{path}: a damaged part was left out" for path in broken]
        return found

    def _plain(self, kind: str) -> Table:
        return Table(
            self._connection.sql(f"select * from {self._load(kind)}"),
            kind,
            "time_ns, attempt, rank",
        )

    def _effective(self, view: str) -> str:
        """SQL for the ticks that no later attempt has done again, or gone back behind."""
        rows = self._connection.execute(
            f"select attempt, min(tick) from {view} group by attempt order by attempt desc"
        ).fetchall()
        conditions, resumed = [], None
        for attempt, first in rows:
            before = "" if resumed is None else f" and tick < {resumed}"
            conditions.append(f"(attempt = {attempt}{before})")
            resumed = first if resumed is None else min(first, resumed)
        return f"select * from {view} where {' or '.join(conditions) or 'true'}"

    # --- from files to a view -------------------------------------------------------------------

    def _load(self, kind: str) -> str:
        """A view over all parts and lines of a kind; its name."""
        parts: list[Path] = []
        placed = bytearray()
        for folder in tape_folders(self.directory, kind):
            sealed, lines = read_tape(folder, kind, self.info.id)
            parts += sealed
            place = b'{"attempt":%d,"rank":%d,' % (number(folder.parent), number(folder))
            for line in lines.whole:
                placed += place
                placed += memoryview(line)[1:]
        sources = [*self._sealed(parts), *self._live(kind, placed)] or [self._empty(kind)]
        name = f"all_{kind}_{next(self._numbers)}"
        everything = " union all by name ".join(f"({source})" for source in sources)
        columns = self._connection.sql(everything).columns
        listed = ", ".join(identifier(column) for column in _in_order(columns, kind))
        self._connection.execute(f"create temp view {name} as select {listed} from ({everything})")
        return name

    def _sealed(self, parts: list[Path]) -> list[str]:
        """SQL that reads the parts, those that can be read."""
        if not parts:
            return []
        found = []
        # a run may itself lie in folders such as lr=0.1: then no name of a folder is looked at
        if "=" not in str(self.directory.resolve()):
            found.append(scan(parts, "hive_types = {'attempt': BIGINT, 'rank': BIGINT}"))
        else:
            for folder in dict.fromkeys(path.parent for path in parts):
                place = f"{number(folder.parent)} as attempt, {number(folder)} as rank"
                inside = [path for path in parts if path.parent == folder]
                found.append(f"select {place}, * from ({scan(inside)})")
        if self._read.issuperset(parts):
            return found
        if all(map(looks_whole, parts)) and self._is_readable(self._connection, found):
            self._read.update(parts)
            return found
        whole = [path for path in parts if self._readable(path)]
        return self._sealed(whole) if len(whole) < len(parts) else found

    def _readable(self, path: Path) -> bool:
        return path in self._read or (
            looks_whole(path) and self._is_readable(self._connection, [scan([path])])
        )

    def _live(self, kind: str, placed: bytes | bytearray) -> list[str]:
        """SQL for lines that say their place, from a temporary table of them."""
        if not placed:
            return []
        name = f"live_{kind}_{next(self._numbers)}"
        with tempfile.TemporaryDirectory() as scratch:
            lines = Path(scratch, "lines.jsonl")
            lines.write_bytes(placed)
            select = columns_of(self._connection, kind, lines, placed=True)
            self._connection.execute(f"create temp table {name} as {select}")
        return [f"select * from {name}"]

    def _empty(self, kind: str) -> str:
        columns = ["attempt", "rank", *FIXED[kind]]
        typed = [
            f"null::{'VARCHAR' if name in ('event', 'fields') else 'BIGINT'} as {name}"
            for name in columns
            if name != "arrival_ns"
        ]
        return f"select {', '.join(typed)} where false"


def _in_order(columns: list[str], kind: str) -> list[str]:
    """The record's own first, then phases, the rest of the time, metrics."""
    own = ["attempt", "rank", *FIXED[kind]]
    rest = f"{UNATTRIBUTED}_ns"

    def place(name: str) -> int:
        if name in own:
            return own.index(name) - len(own)
        return 2 * (not name.endswith("_ns") or kind != "ticks") + (name == rest)

    return sorted(columns, key=place)
