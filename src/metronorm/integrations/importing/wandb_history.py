"""Reads histories of runs that W&B's API and app have exported: CSV, JSON and Parquet."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError
from metronorm.integrations.axes import Times, step_of
from metronorm.integrations.importing.rows import Rows, numbers
from metronorm.integrations.importing.sources import parquet_rows
from metronorm.integrations.importing.wandb_file import OWN
from metronorm.integrations.importing.writing import Imported
from metronorm.store.sql_columns import identifier, literal_glob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import duckdb

_ZONED = re.compile("TIMESTAMP(TZ.*| WITH TIME ZONE)")
_NO_TEXT = "\N{REPLACEMENT CHARACTER}"
_BOOLS = {"True": 1.0, "False": 0.0}


def read_history(source: Path) -> Imported:
    """Read the run with this history: a file, or a directory of Parquet files.

    Raises:
        DataError: the source is no such file, is damaged, or has no steps or no numbers.
        OSError: the source cannot be read.
    """
    run = Imported("wandb", source, name=source.stem)
    rows = Rows(run)
    times = Times()
    columns: set[str] = set()
    left_out: Counter[str] = Counter()  # the number of rows by the reason
    time_column: str | None = None  # "_timestamp", or "_runtime" if the first row has no timestamp
    no_time = 0
    for row in _rows(source, run.notices):
        if row is None:
            left_out["are not JSON objects"] += 1
            continue
        columns.update(row)
        values = {name: value for name, value in row.items() if name not in OWN}
        step = step_of(row.get("_step"))
        if step is not None:
            if time_column is None:
                time_column = "_runtime" if row.get("_timestamp") is None else "_timestamp"
            no_time += time_column == "_runtime"
            time = row.get(time_column)
            is_missing = time_column == "_runtime" and time is None
            rows.add(step, 0 if is_missing else times.read(time), values)
        elif row.get("_step") is not None:
            left_out["have a _step that is not an integer of 64 bits"] += 1
        elif row.get("_timestamp") is None:
            left_out["have no _step"] += 1
        elif (time_ns := times.read(row["_timestamp"])) is None:
            left_out["have neither _step nor a time"] += 1
        else:  # a sample of the machine, from run.history(stream="system")
            run.samples.append((time_ns, {_plain(k): v for k, v in numbers(values).items()}))
    rows.finish()
    run.notices += [f"rows left out that {why}: {count:,}" for why, count in left_out.items()]
    run.notices += times.notices()
    if not run.history.attempts:
        contents = "; ".join([", ".join(sorted(columns)[:9]) or "nothing", *run.notices])
        raise DataError(
            "the history of a W&B run has a column _step, and numbers beside it",
            got=f"{source} with {contents}",
            fix="export run.scan_history() or run.history() of W&B's API",
        )
    if no_time:
        run.notices.append(f"rows without _timestamp, whose times count from 1970: {no_time:,}")
    return run


def _plain(name: str) -> str:
    return name.removeprefix("system.").removeprefix("system/")


def _rows(source: Path, notices: list[str]) -> Iterator[dict[str, Any] | None]:
    """Return the rows, None for each that is not one; problems of the files go to `notices`."""
    parts = []
    if source.is_dir():
        parts = sorted(path for path in source.glob("*.parquet") if path.is_file())
    kind = ".parquet" if parts else source.suffix.lower()
    if kind == ".parquet" and (parts or source.is_file()):
        return _rows_of_parquet(parts or [source], notices)
    if kind == ".csv" and source.is_file():
        return _csv_rows(source, notices)
    if kind in (".json", ".jsonl", ".ndjson") and source.is_file():
        return _json_rows(source)
    raise DataError(
        "a W&B run to import is a .wandb file, or a history as CSV, JSON or Parquet",
        got=str(source),
    )


def _csv_rows(path: Path, notices: list[str]) -> Iterator[dict[str, Any]]:
    longest = csv.field_size_limit(sys.maxsize)
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            names = Counter(reader.fieldnames or ())
            longer = replaced = 0
            for cells in reader:
                longer += bool(cells.pop(None, None))
                row = {name: _cell(text) for name, text in cells.items() if text and name}
                replaced += any(type(it) is str and _NO_TEXT in it for it in row.values())
                yield row
    except csv.Error as error:
        raise DataError("a .csv file must be CSV", got=f"{path}: {error}") from None
    finally:
        csv.field_size_limit(longest)
    repeated = [name for name, count in names.items() if count > 1 and name]
    if repeated:
        notices.append(f"columns left out whose names are repeated: {', '.join(repeated)[:99]}")
    if longer:
        notices.append(f"rows with cells after the last column, which were left out: {longer:,}")
    if replaced:
        notices.append(f"rows with bytes that are not UTF-8, now {_NO_TEXT}: {replaced:,}")


def _cell(text: str) -> Any:
    if text.isdecimal() and len(text) < 20:
        return int(text)  # a time in nanoseconds has more digits than a float
    try:
        return float(text)
    except ValueError:
        return _BOOLS.get(text, text)


def _json_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] == "[" or not text.strip():
            raise DataError("a .json file must be JSON", got=f"{path}: {error}") from None
        rows = [_json_line(line) for line in text.split("\n") if line.strip()]
    else:
        rows = whole if isinstance(whole, list) else [whole]
    first = rows[0] if len(rows) == 1 else None
    if isinstance(first, dict) and first and all(isinstance(it, dict) for it in first.values()):
        # an object of columns, as pandas writes it
        names = {index for cells in first.values() for index in cells}
        rows = [
            {name: cells.get(index) for name, cells in first.items()}
            for index in sorted(names, key=lambda index: (len(index), index))
        ]
    for row in rows:
        yield row if isinstance(row, dict) else None


def _json_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _rows_of_parquet(paths: list[Path], notices: list[str]) -> Iterator[dict[str, Any]]:
    import duckdb

    failed = []
    for path in paths:
        count = 0
        with duckdb.connect() as connection:
            try:
                for row in parquet_rows(connection, path, _columns(connection, path)):
                    count += 1
                    yield row
            except duckdb.Error as error:
                reason = str(error).partition("\n")[0]
                failed.append(f"{path}: {reason}")
                notices.append(f"{path.name}: left out from row {count + 1:,} on: {reason}")
    if len(failed) == len(paths):
        raise DataError("a .parquet file must be Parquet", got=failed[0])


def _columns(connection: duckdb.DuckDBPyConnection, path: Path) -> str:
    """Return all columns in SQL, with zoned times as UTC: DuckDB needs pytz to return zones."""
    described = connection.execute(
        "describe select * from read_parquet(?)", [literal_glob(path)]
    ).fetchall()
    zoned = [identifier(row[0]) for row in described if _ZONED.fullmatch(row[1])]
    casts = ", ".join(f"{name}::TIMESTAMPTZ::TIMESTAMP as {name}" for name in zoned)
    connection.execute("set TimeZone = 'UTC'")
    return f"* replace ({casts})" if casts else "*"
