"""Parquet parts: how they are read together, and which of them can be read."""

from __future__ import annotations

import os
import re
from itertools import groupby
from typing import TYPE_CHECKING

from metronorm.errors import OutOfMemoryError, RunError
from metronorm.store.engine import connect
from metronorm.store.schema import COLUMNS, REQUIRED
from metronorm.store.sql_columns import identifier, literal, literal_glob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import duckdb


BATCH = 1000
BROKEN = ".broken"  # the ending of the name of a part that sealing has found to be unreadable

# `scan` with a column of the parts' paths; no metric and no phase can have this column's name
FILE = "_ns"
WITH_FILE = f"hive_partitioning = false, filename = '{FILE}'"

# (name, type) of every column
Schema = tuple[tuple[str, str], ...]
_INTEGERS = re.compile(r"INT(32|64)( U?INT_\d+)?")
_NUMBERS = re.compile(rf"{_INTEGERS.pattern}|FLOAT|DOUBLE|BOOLEAN|.* DECIMAL")


def scan(parts: Iterable[Path], options: str = "hive_partitioning = false") -> str:
    """SQL that reads parts, to be put behind `from`.

    The parts must agree in the columns that a query uses. Otherwise `options` must have
    `union_by_name = true`, which opens every part again for each query.

    Args:
        parts: the files.
        options: options of DuckDB's `read_parquet`.
    """
    return f"read_parquet({files_of(parts)}, {options})"


def files_of(parts: Iterable[Path]) -> str:
    """SQL: the list of the files, for DuckDB's functions that read Parquet."""
    return f"[{', '.join(literal(literal_glob(part)) for part in parts)}]"


def schemas(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path]) -> list[Schema]:
    """The columns of each part, in the order of the parts.

    Raises:
        duckdb.Error: a part is damaged.
    """
    import duckdb

    try:
        rows = connection.execute(
            f"""select file_name, name, concat_ws(' ', type, converted_type), num_children
                from parquet_schema({files_of(parts)})"""
        ).fetchall()
    except UnicodeDecodeError as error:  # a name
        raise duckdb.InvalidInputException(str(error)) from None
    found = [_top_level(list(rows)) for _, rows in groupby(rows, key=lambda row: row[0])]
    assert len(found) == len(parts)
    return found


def _top_level(rows: Sequence[tuple[str, str, str, int | None]]) -> Schema:
    """The children of the first row, where every row of a tree comes before its own children."""
    columns = []
    at = 1
    while at < len(rows):
        _, name, type_name, _ = rows[at]
        columns.append((name, type_name))
        to_skip = 1
        while to_skip:  # this row and all rows below it
            to_skip += (rows[at][3] or 0) - 1
            at += 1
    return tuple(columns)


def is_of_kind(schema: Schema, kind: str) -> bool:
    """Whether a part has the columns that records of a kind must have, and those of their types.

    The clock writes no other parts; a file that somebody has put there may be anything.

    Args:
        schema: the columns of the part.
        kind: "ticks", "events" or "resources".
    """
    types, known = dict(schema), COLUMNS[kind]
    integers = [name for name in known if known[name] == "BIGINT" and name in types]
    return (
        set(REQUIRED[kind]) <= types.keys()
        and all(_INTEGERS.fullmatch(types[name]) for name in integers)
        and (kind == "events" or all(map(_NUMBERS.fullmatch, types.values())))
    )


def with_gaps(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], kind: str) -> set[Path]:
    """The parts in which a record lacks a value that all must have.

    Raises:
        duckdb.Error: a part is damaged, or is not `is_of_kind`.
    """
    lacks = " or ".join(f"{name} is null" for name in REQUIRED[kind])
    source = scan(parts, WITH_FILE)
    rows = connection.execute(f"select distinct {FILE} from {source} where {lacks}").fetchall()
    bad = {path for (path,) in rows}
    return {part for part in parts if str(part.resolve()) in bad}


def has_parquet_magic(part: Path) -> bool:
    """Whether this is a file that begins and ends with Parquet's magic bytes.

    Raises:
        RunError: the file may not be read.
    """
    if not part.is_file():  # opening a named pipe would wait
        return False
    try:
        with open(part, "rb") as file:
            first = file.read(4)
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 4, 0))
            return first == file.read(4) == b"PAR1"
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise RunError("a run's files must be readable", got=f"{part}: {error.strerror}") from None


def is_readable(part: Path) -> bool:
    """Whether every value of a part can be read.

    Raises:
        OutOfMemoryError: reading it takes more memory than there is.
    """
    import duckdb

    try:
        with connect(threads=1) as connection:
            ((*columns,),) = schemas(connection, [part])
            for batch in batches([identifier(name) for name, _ in columns]):
                query = f"select bit_xor(hash({', '.join(batch)})) from {scan([part])}"
                connection.execute(query).fetchall()
    except duckdb.OutOfMemoryException as error:
        raise out_of_memory(error) from None
    except duckdb.Error:
        return False
    return True


def batches(names: Sequence[str], size: int = BATCH) -> Iterator[Sequence[str]]:
    """Split the names of columns into groups for one query each.

    A query takes about 16 kB per column in each of its steps, and the time that DuckDB needs to
    plan it grows faster than the number of columns.
    """
    return (names[at : at + size] for at in range(0, len(names), size))


def out_of_memory(error: Exception) -> OutOfMemoryError:
    """The error to raise when DuckDB ran out of memory; the files are not damaged."""
    reason = str(error).partition("\n")[0].removeprefix("Out of Memory Error: ")
    return OutOfMemoryError(
        "reading this run takes more memory than there is", got=reason, fix="end other programs"
    )
