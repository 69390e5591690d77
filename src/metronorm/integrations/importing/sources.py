"""The sources of imports: finds files, and reads those that can be read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from metronorm.errors import DataError
from metronorm.store.sql_columns import literal_glob

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import duckdb

T = TypeVar("T")


@contextlib.contextmanager
def readable(source: Path) -> Iterator[None]:
    """Turn an OSError inside of the block into an error in one line.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            "what is to be imported must be readable",
            got=f"{error.filename or source}: {error.strerror or error}",
        ) from None


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the regular files in a folder or below whose names match, sorted by path."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def read_each(paths: list[Path], read: Callable[[Path], T]) -> tuple[list[T], list[str]]:
    """Read several files.

    Returns:
        What `read` returned for each file that can be read, and a notice for each that cannot.

    Raises:
        DataError: no file can be read; the error is that of the first.
    """
    found: list[T] = []
    notices: list[str] = []
    first: DataError | None = None
    for path in paths:
        try:
            with readable(path):
                found.append(read(path))
        except DataError as error:
            first = first or error
            notices.append(f"{path.name} was left out: {error}")
    if first is not None and not found:
        raise first
    return found, notices


def damage_notice(path: Path, unread: int, size: int) -> list[str]:
    """Return a notice if the last `unread` bytes of a file of `size` bytes cannot be read."""
    part = "all" if unread == size else "the last"
    text = f"{path.name}: {part} {unread:,} bytes are cut off or damaged, and were left out"
    return [text] if unread else []


def left_out_notice(kinds: Counter[str], prefix: str = "") -> list[str]:
    """Return a notice if there are records that a run cannot hold; `kinds` counts them."""
    counts = ", ".join(f"{count:,} of {kind}" for kind, count in kinds.most_common())
    return [f"{prefix}records left out that no run holds: {counts}"] if kinds else []


def parquet_rows(
    connection: duckdb.DuckDBPyConnection, path: Path, select: str = "*", rest: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as dictionaries.

    Args:
        connection: an open connection; it can do nothing else meanwhile.
        path: the file.
        select: the columns, in SQL.
        rest: what follows `from` in SQL.

    Raises:
        duckdb.Error: the file cannot be read; perhaps after some rows.
    """
    found = connection.execute(f"select {select} from read_parquet(?) {rest}", [literal_glob(path)])
    names = [column[0] for column in found.description or ()]
    while rows := found.fetchmany(10_000):
        for cells in rows:
            yield dict(zip(names, cells, strict=True))
