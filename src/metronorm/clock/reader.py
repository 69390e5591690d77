"""Read a run: its ticks, events and resources as DuckDB relations, also while it is written."""

from __future__ import annotations

import glob
import importlib.util
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from metronorm.clock.run import RunInfo, number, read_run_info
from metronorm.clock.tape import LIVE, ends_torn
from metronorm.errors import MissingDependencyError

if TYPE_CHECKING:
    import os

    import duckdb

History = Literal["effective", "full"]

_LINES = {
    "ticks": {
        "tick": "BIGINT",
        "time_ns": "BIGINT",
        "wall_ns": "BIGINT",
        "beats": "BIGINT",
        "phases": "MAP(VARCHAR, BIGINT)",
        "metrics": "MAP(VARCHAR, DOUBLE)",
    },
    "events": {"event": "VARCHAR", "tick": "BIGINT", "time_ns": "BIGINT", "fields": "JSON"},
    "resources": {
        "tick": "BIGINT",
        "time_ns": "BIGINT",
        "memory_bytes": "BIGINT",
        "peak_memory_bytes": "BIGINT",
        "processor_ns": "BIGINT",
    },
}


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory for reading.

    Raises:
        RunError: no run there, a damaged `run.json`, or one of a newer schema.
    """
    return Run(Path(path))


class Table:
    """Rows of a run, as a DuckDB relation.

    `relation` is the relation itself (lazy, all of DuckDB's methods); `df()` is a pandas frame,
    `arrow()` a pyarrow table, `sql("select ... from ticks")` another relation over these rows,
    under the name the method of `Run` has.
    """

    def __init__(self, relation: duckdb.DuckDBPyRelation, name: str) -> None:
        self.relation = relation
        self._name = name

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.relation.columns)

    def df(self) -> Any:
        """All rows as a `pandas.DataFrame`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        _require("pandas")
        return self.relation.df()

    def arrow(self) -> Any:
        """All rows as a `pyarrow.Table`.

        Raises:
            MissingDependencyError: pyarrow is not installed.
        """
        _require("pyarrow")
        return self.relation.to_arrow_table()

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Run SQL over these rows: `run.ticks().sql("select max(loss) from ticks")`."""
        return cast("duckdb.DuckDBPyRelation", self.relation.query(self._name, query))

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dicts."""
        names = self.columns
        return [dict(zip(names, row, strict=True)) for row in self.relation.fetchall()]

    def __repr__(self) -> str:
        return repr(self.relation)


class Run:
    """A run on disk. Every reading looks at the files anew, so a live run can be followed."""

    def __init__(self, directory: Path) -> None:
        import duckdb

        self.directory = directory
        self.info: RunInfo = read_run_info(directory)
        self._connection = duckdb.connect()
        self._connection.execute("set preserve_insertion_order = false")
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<Run {self.info.name!r} at {self.directory}>"

    @property
    def attempts(self) -> list[int]:
        """Numbers of the attempts that were begun."""
        return sorted(number(path) for path in self.directory.glob("ticks/attempt=*"))

    def ticks(self, history: History = "effective") -> Table:
        """One row per tick: `attempt, rank, tick, time_ns, wall_ns, beats`, `PHASE_ns`, metrics.

        The *effective* history is the run as its final parameters lived it: after a resume each
        tick stands once, the newest attempt wins, and what an older attempt did beyond the point
        of resumption is left out. The *full* history has every tick of every attempt.
        """
        name = self._load("ticks")
        source = f"select * from {name}"
        if history == "effective":
            source = f"""
                with begun as (
                    select attempt, rank, min(tick) as first from {name} group by attempt, rank)
                select t.* from {name} t where not exists (
                    select 1 from begun b
                    where b.rank = t.rank and b.attempt > t.attempt and b.first <= t.tick)"""
        phases = [
            f"phases[{literal(key)}] as {identifier(key + '_ns')}"
            for key in self._keys(name, "phases")
        ]
        metrics = [
            f"metrics[{literal(key)}] as {identifier(key)}" for key in self._keys(name, "metrics")
        ]
        columns = ["attempt", "rank", "tick", "time_ns", "wall_ns", "beats", *phases, *metrics]
        return Table(
            self._connection.sql(
                f"select {', '.join(columns)} from ({source}) order by tick, attempt, rank"
            ),
            "ticks",
        )

    def events(self) -> Table:
        """One row per event: `attempt, rank, tick, time_ns, event, fields` (JSON)."""
        return self._plain("events", "attempt, rank, tick, time_ns, event, fields")

    def resources(self) -> Table:
        """One row per sample: `attempt, rank, tick, time_ns, memory_bytes, ...`."""
        return self._plain(
            "resources",
            "attempt, rank, tick, time_ns, memory_bytes, peak_memory_bytes, processor_ns",
        )

    def notices(self) -> list[str]:
        """What is amiss with the tapes, in words: torn last lines, damaged lines."""
        found = []
        for kind in _LINES:
            torn = [path for path in self._tapes(kind) if ends_torn(path)]
            found += [f"{path}: the last line is torn and was left out" for path in torn]
            damaged = self._damaged(kind) - len(torn)
            if damaged > 0:
                found.append(f"{self.directory / kind}: {damaged} damaged lines were left out")
        return found

    def _plain(self, kind: str, columns: str) -> Table:
        return Table(
            self._connection.sql(
                f"select {columns} from {self._load(kind)} order by time_ns, attempt, rank"
            ),
            kind,
        )

    def _tapes(self, kind: str) -> list[Path]:
        return sorted(self.directory.glob(f"{kind}/attempt=*/rank=*/{LIVE}"))

    def _scan(self, kind: str) -> str | None:
        """SQL that reads all lines of a kind; a line that is no record comes as a row of nulls."""
        tapes = [path for path in self._tapes(kind) if path.stat().st_size]
        if not tapes:
            return None
        files = ", ".join(literal(glob.escape(str(path.resolve()))) for path in tapes)
        columns = ", ".join(
            f"{literal(name)}: {literal(kind)}" for name, kind in _LINES[kind].items()
        )
        return (
            f"read_json([{files}], format = 'newline_delimited', columns = {{{columns}}}, "
            "ignore_errors = true, filename = true, hive_partitioning = false, "
            "maximum_object_size = 67108864)"
        )

    def _load(self, kind: str) -> str:
        """Read the tapes into a temporary table; its name."""
        name = f"{kind}_{next(self._numbers)}"
        scan = self._scan(kind)
        columns = ", ".join(f"{column} {kind}" for column, kind in _LINES[kind].items())
        if scan is None:
            query = f"create temp table {name} (attempt BIGINT, rank BIGINT, {columns})"
        else:
            # only the run's own part of the path is looked at, whatever folders it lies in
            part = "regexp_extract(filename, '.*attempt=(\\d+)[/\\\\]rank=(\\d+)', {})::BIGINT"
            query = (
                f"create temp table {name} as select {part.format(1)} as attempt, "
                f"{part.format(2)} as rank, * exclude (filename) from {scan} "
                "where tick is not null"
            )
        self._connection.execute(query)
        return name

    def _damaged(self, kind: str) -> int:
        scan = self._scan(kind)
        if scan is None:
            return 0
        query = f"select count(*) from {scan} where tick is null"
        return int(self._connection.sql(query).fetchall()[0][0])

    def _keys(self, table: str, column: str) -> list[str]:
        rows = self._connection.sql(
            f"""
            select key from (
                select unnest(map_keys({column})) as key, tick,
                       generate_subscripts(map_keys({column}), 1) as position
                from {table})
            group by key order by min(tick * 100000 + position)"""
        ).fetchall()
        return [row[0] for row in rows]


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"this needs the package {package}", fix="pip install 'metronorm[analysis]'"
        )


def literal(value: str) -> str:
    """An SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def identifier(value: str) -> str:
    """An SQL identifier."""
    return '"' + value.replace('"', '""') + '"'
