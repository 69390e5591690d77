"""Parquet parts: how they are read together, and which of them can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.clock.store.columns import literal, literal_glob

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import duckdb


BROKEN = ".broken"  # what a part that cannot be read ends in, once it was found out


def scan(parts: Iterable[Path], options: str = "hive_partitioning = false") -> str:
    """SQL that reads parts, whose columns need not be the same."""
    files = ", ".join(literal(literal_glob(part)) for part in parts)
    return f"select * from read_parquet([{files}], union_by_name = true, {options})"


def looks_whole(part: Path) -> bool:
    """Whether there is a file that begins and ends as Parquet does."""
    try:
        with open(part, "rb") as file:
            begin = file.read(4)
            file.seek(0, 2)
            file.seek(max(file.tell() - 4, 0))
            return begin == file.read(4) == b"PAR1"
    except FileNotFoundError:
        return False


def is_readable(connection: duckdb.DuckDBPyConnection, sources: Iterable[str]) -> bool:
    """Whether every value can be read, by SQL of which each reads some parts."""
    import duckdb

    try:
        for source in sources:
            connection.execute(f"select bit_xor(hash(t)) from ({source}) t").fetchall()
    except duckdb.Error:
        return False
    return True


def binds(connection: duckdb.DuckDBPyConnection, sources: Iterable[str]) -> bool:
    """Whether the columns can be told, by SQL of which each reads some parts: a cheap look."""
    import duckdb

    try:
        for source in sources:
            connection.sql(source)
    except duckdb.Error:
        return False
    return True
