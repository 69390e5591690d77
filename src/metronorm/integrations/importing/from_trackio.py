"""Runs of trackio: the SQLite file of a project, or its Parquet files."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError
from metronorm.integrations.axes import Times, step_of
from metronorm.integrations.importing.history import Event
from metronorm.integrations.importing.rows import Rows, folder_names, numbers
from metronorm.integrations.importing.sources import read_each
from metronorm.integrations.importing.writing import Imported, new_runs, write_run
from metronorm.store.sql_columns import literal_glob

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

_Entry = tuple[dict[str, Any], dict[str, Any]]  # a row, and what its JSON holds

_COLUMNS = {
    *("id", "run_id", "timestamp", "run_name", "step", "log_id", "space_id", "created_at"),
}
_OWN = ("_Username", "_Created", "_Group")


def import_trackio(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, run: str | None = None
) -> list[Path]:
    """Make runs of what trackio has logged. The source is only read.

    Args:
        source: the database of a project (`PROJECT.db`), a directory of trackio's with such files
            (`~/.cache/huggingface/trackio`), or the metrics of a project in Parquet, with
            trackio's other files beside it.
        directory: where the run is made, a new one; of several runs, each in a directory below
            that has its name; of several projects, those in directories of theirs.
        run: import only the run of this name.

    Returns:
        Directories of the runs.

    Rows of a step are one record; its time is that of the first of them, and its `wall_ns` is the
    time since the record before. What was sampled of the machine becomes resources, or an event
    `system` where a run has no name for it; alerts and texts become events. What cannot come over
    is counted in an event `notice`.

    Raises:
        DataError: no such database or run, or no numbers in it that can be read.
        RunError: `directory` is not empty or cannot be written.
    """
    source, directory = Path(source), Path(directory)
    databases = [source]
    if source.is_dir():
        databases = sorted(path for path in source.glob("*.db") if path.is_file())
    read, notices = read_each(databases, lambda path: _read(path, run))
    projects = {}
    for path, runs in read:
        full = [one for one in runs if one.history.attempts]
        empty = [one.name for one in runs if not one.history.attempts]
        if empty:
            notices.append(
                f"runs of {path.name} left out that hold no number: {len(empty):,}, such as "
                f"{empty[0]!r}"
            )
        if full:
            projects[path] = full
    if not projects:
        raise DataError(
            "there must be a run of trackio to import",
            got=(f"none in {source}" if run is None else f"no {run!r} in {source}")
            + (f" ({notices[0]})" if notices else ""),
        )
    next(iter(projects.values()))[0].notices += notices
    made = []
    with new_runs(directory) as aside:
        for path, runs in projects.items():
            project = Path(path.stem if len(projects) > 1 else "")
            names = folder_names([one.name or "run" for one in runs])
            for one, name in zip(runs, names, strict=True):
                folder = project / name if len(projects) > 1 or len(runs) > 1 else Path()
                write_run(one, aside / folder, name)
                made.append(directory / folder)
    return made


def _read(path: Path, wanted: str | None) -> tuple[Path, list[Imported]]:
    if not path.is_file():
        raise DataError("a project of trackio is a file PROJECT.db", got=f"no {path}")
    import duckdb

    try:
        if path.suffix == ".parquet":
            return path, _runs(lambda table: _parquet_rows(path, table), path, wanted)
        with contextlib.closing(_connect(path)) as connection:
            return path, _runs(lambda table: _sqlite_rows(connection, table), path, wanted)
    except (sqlite3.Error, duckdb.Error, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            "a project of trackio is an SQLite database or its Parquet form",
            got=f"{path}: {type(error).__name__} {reason}",
        ) from None


def _runs(
    table: Callable[[str], Iterable[_Entry]], path: Path, wanted: str | None
) -> list[Imported]:
    runs: dict[str, _Run] = {}
    nobody = _Run(path, None)  # has what is of runs that are not wanted
    for kind in ("metrics", "configs", "system_metrics", "alerts"):
        for row, told in table(kind):
            key = _key(row)
            if kind == "metrics" and key not in runs and wanted in (None, row["run_name"]):
                runs[key] = _Run(path, str(row["run_name"]))
            runs.get(key, nobody).take(kind, row, told)
    return [run.finish() for run in runs.values()]


class _Run:
    """Takes the rows of all tables that are of one run."""

    def __init__(self, path: Path, name: str | None) -> None:
        self._run = Imported("trackio", path, name=name)
        self._rows = Rows(self._run)
        self._times = Times()
        self._unread: Counter[str] = Counter()

    def take(self, kind: str, row: dict[str, Any], told: Any) -> None:
        """One row of a table, and what its JSON holds."""
        run = self._run
        time_ns = self._times.read(row["timestamp"]) if "timestamp" in row else None
        if not isinstance(told, dict):
            self._unread[kind] += 1
        elif kind == "metrics":
            step = step_of(row["step"])
            if step is None:
                self._unread[kind] += 1
            else:
                self._rows.add(step, time_ns, told)
        elif kind == "configs":
            run.config.update({name: value for name, value in told.items() if name not in _OWN})
        elif time_ns is None:
            self._unread[kind] += 1
        elif kind == "system_metrics":
            run.samples.append((time_ns, numbers(told)))
        else:
            fields = {name: row.get(name) for name in ("title", "text", "level", "step")}
            run.events.append(Event("alert", time_ns, fields))

    def finish(self) -> Imported:
        """All rows were taken."""
        self._rows.finish()
        self._run.notices += self._times.notices()
        self._run.notices += [
            f"rows of {kind} left out that cannot be read: {count:,}"
            for kind, count in self._unread.items()
        ]
        return self._run


def _key(row: dict[str, Any]) -> str:
    """What a run is known by: before trackio 0.24 its name alone."""
    return row.get("run_id") or str(row["run_name"])


def _connect(path: Path) -> sqlite3.Connection:
    address = path.resolve().as_uri() + "?mode=ro"
    # without a log of changes nobody writes it: else SQLite makes files beside it even to read
    changes = path.with_name(path.name + "-wal")
    if not (changes.exists() and changes.stat().st_size):
        address += "&immutable=1"
    connection = sqlite3.connect(address, uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def _sqlite_rows(connection: sqlite3.Connection, table: str) -> Iterator[_Entry]:
    query = "select 1 from sqlite_master where type = 'table' and name = ?"
    if connection.execute(query, (table,)).fetchone() is None and table != "metrics":
        return
    for row in connection.execute(f"select * from {table} order by id"):
        text = next((row[name] for name in ("metrics", "config") if name in row.keys()), "{}")  # noqa: SIM118
        try:
            told = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            told = None
        yield dict(row), told


def _parquet_rows(path: Path, table: str) -> Iterator[_Entry]:
    """Rows as trackio exports them, with the metrics in columns of their own."""
    import duckdb

    if table != "metrics":
        beside = path.with_name(f"{path.stem}_{table.removesuffix('_metrics')}.parquet")
        below = path.parent / "aux" / f"{table}.parquet"
        path = beside if beside.is_file() else below
        if not path.is_file():
            return
    found = duckdb.connect().execute("from read_parquet(?) order by id", [literal_glob(path)])
    names = [column[0] for column in found.description or ()]
    while rows := found.fetchmany(10_000):
        for cells in rows:
            row = dict(zip(names, cells, strict=True))
            yield row, {name: row[name] for name in names if name not in _COLUMNS}
