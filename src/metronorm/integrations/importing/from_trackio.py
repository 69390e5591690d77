"""Imports runs of trackio: from the SQLite file of a project, or from its Parquet files."""

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
from metronorm.integrations.importing.rows import Rows, numbers
from metronorm.integrations.importing.sources import parquet_rows, read_each
from metronorm.integrations.importing.writing import (
    Imported,
    folder_names,
    with_values,
    write_runs,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

_Entry = tuple[dict[str, Any], Any]  # a row, and its decoded JSON; None if that is damaged

_COLUMNS = {  # trackio's own columns in a Parquet file; all others are values
    *("id", "run_id", "timestamp", "run_name", "step", "log_id", "space_id", "created_at"),
}
_OWN = ("_Username", "_Created", "_Group")  # trackio's own entries in a config


def import_trackio(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, run: str | None = None
) -> list[Path]:
    """Make runs from what trackio has logged. The source is only read.

    Args:
        source: the database of a project (`PROJECT.db`), trackio's directory with such files
            (`~/.cache/huggingface/trackio`), or the metrics of a project in Parquet, with
            trackio's other files beside it.
        directory: a new directory for the run. If there are several runs, each gets a directory in
            it, with the run's name; if there are several projects, each gets a directory for these.
        run: the name of the only run to import; None: all.

    Returns:
        The runs' directories.

    The rows of a step are one record. Its time is the time of the first row, and its `wall_ns` is
    the time since the record before. Samples of the machine become resources, or an event `system`
    if a run has no name for them. Alerts and texts become events. What cannot be imported is
    counted in an event `notice`.

    Raises:
        DataError: there is no such database or run, or it has no numbers that can be read.
        RunError: `directory` is not empty or cannot be written.
    """
    source, directory = Path(source), Path(directory)
    databases = [source]
    if source.is_dir():
        databases = sorted(path for path in source.glob("*.db") if path.is_file())
    read, notices = read_each(databases, lambda path: _read(path, run))
    projects = {}
    for path, runs in read:
        full, about_empty = with_values(runs, f"of {path.name} ")
        notices += about_empty
        if full:
            projects[path] = full
    if not projects:
        raise DataError(
            "there must be a run of trackio to import",
            got=(f"none in {source}" if run is None else f"no {run!r} in {source}")
            + (f" ({notices[0]})" if notices else ""),
        )
    next(iter(projects.values()))[0].notices += notices
    folders: dict[Path, Imported] = {}
    for path, runs in projects.items():
        project = Path(path.stem if len(projects) > 1 else "")
        names = folder_names(runs) if len(projects) > 1 or len(runs) > 1 else [""]
        folders |= {project / name: one for name, one in zip(names, runs, strict=True)}
    return write_runs(folders, directory)


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
    unwanted = _Run(path, None)  # takes the rows of runs that are not imported
    for kind in ("metrics", "configs", "system_metrics", "alerts"):
        for row, content in table(kind):
            key = _key(row)
            if kind == "metrics" and key not in runs and wanted in (None, row["run_name"]):
                runs[key] = _Run(path, str(row["run_name"]))
            runs.get(key, unwanted).take(kind, row, content)
    return [run.finish() for run in runs.values()]


class _Run:
    """Collects one run's rows from all tables."""

    def __init__(self, path: Path, name: str | None) -> None:
        self._run = Imported("trackio", path, name=name)
        self._rows = Rows(self._run)
        self._times = Times()
        self._unread: Counter[str] = Counter()

    def take(self, kind: str, row: dict[str, Any], content: Any) -> None:
        """Take one row of a table, with its decoded JSON; what cannot be read is counted."""
        run = self._run
        time_ns = self._times.read(row["timestamp"]) if "timestamp" in row else None
        if not isinstance(content, dict):
            self._unread[kind] += 1
        elif kind == "metrics":
            step = step_of(row["step"])
            if step is None:
                self._unread[kind] += 1
            else:
                self._rows.add(step, time_ns, content)
        elif kind == "configs":
            run.config.update({name: value for name, value in content.items() if name not in _OWN})
        elif time_ns is None:
            self._unread[kind] += 1
        elif kind == "system_metrics":
            run.samples.append((time_ns, numbers(content)))
        else:
            fields = {name: row.get(name) for name in ("title", "text", "level", "step")}
            run.events.append(Event("alert", time_ns, fields))

    def finish(self) -> Imported:
        """Return the run, after all rows were taken."""
        self._rows.finish()
        self._run.notices += self._times.notices()
        self._run.notices += [
            f"rows of {kind} left out that cannot be read: {count:,}"
            for kind, count in self._unread.items()
        ]
        return self._run


def _key(row: dict[str, Any]) -> str:
    """Return what identifies a run: before trackio 0.24 it was only the name."""
    return row.get("run_id") or str(row["run_name"])


def _connect(path: Path) -> sqlite3.Connection:
    address = path.resolve().as_uri() + "?mode=ro"
    # If there is a log of changes, a process may be writing. If there is none, "immutable" keeps
    # SQLite from making files beside the database only to read it.
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
            content = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            content = None
        yield dict(row), content


def _parquet_rows(path: Path, table: str) -> Iterator[_Entry]:
    """Yield rows as trackio exports them: each metric is a column."""
    import duckdb

    if table != "metrics":
        beside = path.with_name(f"{path.stem}_{table.removesuffix('_metrics')}.parquet")
        below = path.parent / "aux" / f"{table}.parquet"
        path = beside if beside.is_file() else below
        if not path.is_file():
            return
    for row in parquet_rows(duckdb.connect(), path, rest="order by id"):
        yield row, {name: value for name, value in row.items() if name not in _COLUMNS}
