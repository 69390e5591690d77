"""Runs of trackio: the SQLite file of a project, or its Parquet files."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError
from metronorm.integrations.importing.history import Event
from metronorm.integrations.importing.rows import Rows, folder_names, numbers
from metronorm.integrations.importing.writing import Imported, new_runs, readable, write_run

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

_Entry = tuple[dict[str, Any], dict[str, Any]]  # a row, and what its JSON holds

_COLUMNS = {
    *("id", "run_id", "timestamp", "run_name", "step", "log_id", "space_id", "created_at"),
}
_OWN = ("_Username", "_Created", "_Group")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    `system` where a run has no name for it; alerts become events.

    Raises:
        DataError: no such database or run, a damaged one, or no numbers in it.
        RunError: `directory` is not empty or cannot be written.
    """
    source, directory = Path(source), Path(directory)
    databases = sorted(source.glob("*.db")) if source.is_dir() else [source]
    with readable(source):
        read = {path: _read(path, run) for path in databases}
    projects = {path: runs for path, runs in read.items() if runs}
    if not projects:
        raise DataError(
            "there must be a run of trackio to import",
            got=f"none in {source}" if run is None else f"no {run!r} in {source}",
        )
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


def _read(path: Path, wanted: str | None) -> list[Imported]:
    if not path.is_file():
        raise DataError("a project of trackio is a file PROJECT.db", got=f"no {path}")
    import duckdb

    try:
        if path.suffix == ".parquet":
            return _runs(lambda table: _parquet_rows(path, table), path, wanted)
        with contextlib.closing(_connect(path)) as connection:
            return _runs(lambda table: _sqlite_rows(connection, table), path, wanted)
    except (sqlite3.Error, duckdb.Error, KeyError, ValueError) as error:
        raise DataError(
            "a project of trackio is an SQLite database or its Parquet form",
            got=f"{path}: {type(error).__name__} {error}",
        ) from None


def _runs(
    table: Callable[[str], Iterable[_Entry]], path: Path, wanted: str | None
) -> list[Imported]:
    runs: dict[str, tuple[Imported, Rows]] = {}
    for row, metrics in table("metrics"):
        if wanted is not None and row["run_name"] != wanted:
            continue
        key = _key(row)
        if key not in runs:
            run = Imported("trackio", path, name=row["run_name"])
            runs[key] = run, Rows(run)
        runs[key][1].add(row["step"], _time_ns(row["timestamp"]), metrics)
    nobody = Imported("trackio", path)  # has what is of runs that are not wanted
    for row, config in table("configs"):
        told = {name: value for name, value in config.items() if name not in _OWN}
        runs.get(_key(row), (nobody,))[0].config.update(told)
    for row, metrics in table("system_metrics"):
        sample = _time_ns(row["timestamp"]), numbers(metrics)
        runs.get(_key(row), (nobody,))[0].samples.append(sample)
    for row, _ in table("alerts"):
        fields = {name: row[name] for name in ("title", "text", "level", "step")}
        event = Event("alert", _time_ns(row["timestamp"]), fields)
        runs.get(_key(row), (nobody,))[0].events.append(event)
    for _, rows in runs.values():
        rows.finish()
    return [run for run, _ in runs.values()]


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
        yield dict(row), json.loads(text)


def _parquet_rows(path: Path, table: str) -> Iterator[_Entry]:
    """Rows as trackio exports them, with the metrics in columns of their own."""
    import duckdb

    if table != "metrics":
        beside = path.with_name(f"{path.stem}_{table.removesuffix('_metrics')}.parquet")
        below = path.parent / "aux" / f"{table}.parquet"
        path = beside if beside.exists() else below
        if not path.exists():
            return
    found = duckdb.connect().execute("from read_parquet(?) order by id", [str(path)])
    names = [column[0] for column in found.description or ()]
    while rows := found.fetchmany(10_000):
        for cells in rows:
            row = dict(zip(names, cells, strict=True))
            yield row, {name: row[name] for name in names if name not in _COLUMNS}


@lru_cache  # rows that were logged together have the same
def _time_ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
