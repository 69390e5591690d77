"""Parquet parts: how they are read together, and which of them can be."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from metronorm.errors import OutOfMemoryError, RunError
from metronorm.store.sql_columns import identifier, literal, literal_glob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import duckdb


BATCH = 1000
BROKEN = ".broken"  # what a part that cannot be read ends in, once it was found out

# name and type of every column
Schema = tuple[tuple[str, str], ...]


def scan(parts: Iterable[Path], options: str = "hive_partitioning = false") -> str:
    """What reads parts, behind SQL's `from`.

    Their columns must be the same, those that are asked for at least, or else `options` must have
    `union_by_name = true`, which looks into every part once more for each query.
    """
    files = ", ".join(literal(literal_glob(part)) for part in parts)
    return f"read_parquet([{files}], {options})"


def schemas(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path]) -> list[Schema]:
    """The columns of each part, in the order of the parts.

    Raises:
        duckdb.Error: one of them is damaged.
    """
    files = ", ".join(literal(literal_glob(part)) for part in parts)
    rows = connection.execute(
        f"""select file_name, name, concat_ws(' ', type, converted_type), num_children
            from parquet_schema([{files}])"""
    ).fetchall()
    found = [_top_level(list(rows)) for _, rows in groupby(rows, key=lambda row: row[0])]
    assert len(found) == len(parts)
    return found


def _top_level(rows: Sequence[tuple[str, str, str, int | None]]) -> Schema:
    """Of a tree in which every row comes before its children, those below the first."""
    columns = []
    at = 1
    while at < len(rows):
        _, name, form, _ = rows[at]
        columns.append((name, form))
        below = 1
        while below:  # to the next that is not inside this one
            below += (rows[at][3] or 0) - 1
            at += 1
    return tuple(columns)


def looks_whole(part: Path) -> bool:
    """Whether there is a file that begins and ends as Parquet does.

    Raises:
        RunError: it may not be read.
    """
    if not part.is_file():  # a pipe would be waited for
        return False
    try:
        with open(part, "rb") as file:
            begin = file.read(4)
            file.seek(0, 2)
            file.seek(max(file.tell() - 4, 0))
            return begin == file.read(4) == b"PAR1"
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise RunError("a run's files must be readable", got=f"{part}: {error.strerror}") from None


def is_readable(connection: duckdb.DuckDBPyConnection, part: Path) -> bool:
    """Whether every value of a part can be read.

    Raises:
        OutOfMemoryError: that takes more memory than there is.
    """
    import duckdb

    try:
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
    """Names of columns, as many at a time as a query does well with.

    Every column of a query has some 16 kB in each of its steps, and what DuckDB takes to plan it
    grows faster than their number.
    """
    return (names[at : at + size] for at in range(0, len(names), size))


def out_of_memory(error: Exception) -> OutOfMemoryError:
    """What to raise where DuckDB had not enough memory; the files are as they should be."""
    reason = str(error).partition("\n")[0].removeprefix("Out of Memory Error: ")
    return OutOfMemoryError(
        "reading this run takes more memory than there is", got=reason, fix="end other programs"
    )
