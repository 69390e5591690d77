"""Histories of runs as W&B's API and app export them: CSV, JSON and Parquet."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError
from metronorm.integrations.importing.rows import Rows, numbers
from metronorm.integrations.importing.wandb_file import OWN
from metronorm.integrations.importing.writing import Imported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BOOLS = {"True": 1.0, "False": 0.0}


def read_history(source: Path) -> Imported:
    """The run of which `source` is the history: a file, or a directory of Parquet files.

    Raises:
        DataError: not such a file, a damaged one, or one without steps or numbers.
    """
    run = Imported("wandb", source, name=source.stem)
    rows = Rows(run)
    columns: set[str] = set()
    no_step = no_time = 0
    for row in _rows(source):
        columns.update(row)
        step, seconds = row.get("_step"), row.get("_timestamp")
        no_time += seconds is None
        if seconds is None:
            seconds = row.get("_runtime") or 0
        time_ns = round(seconds * 1e9)
        values = {name: value for name, value in row.items() if name not in OWN}
        if step is not None:
            rows.add(int(step), time_ns, values)
        elif row.get("_timestamp") is not None:  # of the machine: run.history(stream="system")
            run.samples.append((time_ns, {_plain(k): v for k, v in numbers(values).items()}))
        else:
            no_step += 1
    rows.finish()
    if not run.history.attempts:
        raise DataError(
            "the history of a W&B run has a column _step, and numbers beside it",
            got=f"{source} with {', '.join(sorted(columns)[:9]) or 'nothing'}",
            fix="export run.scan_history() or run.history() of W&B's API",
        )
    if no_step:
        run.notices.append(f"rows left out that have no _step: {no_step:,}")
    if no_time:
        run.notices.append(f"rows without _timestamp, whose times count from 1970: {no_time:,}")
    return run


def _plain(name: str) -> str:
    return name.removeprefix("system.").removeprefix("system/")


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    parts = sorted(source.glob("*.parquet")) if source.is_dir() else []
    kind = ".parquet" if parts else source.suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(parts or [source])
    if kind == ".csv":
        return _csv_rows(source)
    if kind in (".json", ".jsonl", ".ndjson"):
        return _json_rows(source)
    raise DataError(
        "a W&B run to import is a .wandb file, or a history as CSV, JSON or Parquet",
        got=str(source),
    )


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                yield {name: _cell(text) for name, text in row.items() if text and name}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError("a .csv file must be CSV", got=f"{path}: {error}") from None


def _cell(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return _BOOLS.get(text, text)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip()[:1] == "[":
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise DataError("a .json file must be JSON", got=f"{path}: {error}") from None
    if len(rows) == 1 and rows[0] and all(isinstance(cells, dict) for cells in rows[0].values()):
        # columns, as pandas writes them
        names = {index for cells in rows[0].values() for index in cells}
        rows = [
            {name: cells.get(index) for name, cells in rows[0].items()}
            for index in sorted(names, key=lambda index: (len(index), index))
        ]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError("rows must be objects", got=f"{path}: row {number}")
        yield row


def _parquet_rows(paths: list[Path]) -> Iterator[dict[str, Any]]:
    import duckdb

    try:
        files = [str(path) for path in paths]
        found = duckdb.connect().execute("from read_parquet(?, union_by_name = true)", [files])
        names = [column[0] for column in found.description or ()]
        while rows := found.fetchmany(10_000):
            for row in rows:
                yield dict(zip(names, row, strict=True))
    except duckdb.Error as error:
        raise DataError("a .parquet file must be Parquet", got=f"{paths[0]}: {error}") from None
