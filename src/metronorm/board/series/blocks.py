"""Columns of Parquet parts, of one tape or of many: one query costs milliseconds, however small."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.board.series._arrays import missing
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import (
    files_of,
    is_of_kind,
    out_of_memory,
    scan,
    schemas,
    with_gaps,
)
from metronorm.store.sql_columns import identifier, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import duckdb

    from metronorm.board.series._arrays import Floats, Integers
    from metronorm.store.parquet_parts import Schema


class Block(NamedTuple):
    """What was read of a part.

    Attributes:
        names: of its columns, by their names in lower case.
        base: the columns that every row has.
        columns: other columns that were asked for, by their names as the part spells them.
    """

    names: dict[str, str]
    base: dict[str, Integers]
    columns: dict[str, Floats]


def read_blocks(
    parts: Sequence[Path], kind: str, base: Sequence[str], names: Sequence[str] = ()
) -> dict[Path, Block | None]:
    """Read some columns of parts that may be of many runs.

    Args:
        parts: the files.
        kind: "ticks" or "resources".
        base: columns that every row has, all of them integers.
        names: other columns, in lower case; a part need not have them.

    Returns:
        The parts, in order; None: it is damaged, or none of this kind.

    Raises:
        OutOfMemoryError: reading them takes more memory than there is.
    """
    import duckdb

    if not parts:
        return {}
    try:
        with connect() as database:
            found = zip(parts, schemas(database, parts), strict=True)
            good = {part: schema for part, schema in found if is_of_kind(schema, kind)}
            blocks = _read(database, good, base, names)
            if blocks is None:
                for part in with_gaps(database, [*good], kind):
                    del good[part]
                blocks = _read(database, good, base, names) or {}
    except duckdb.OutOfMemoryException as error:
        raise out_of_memory(error) from None
    except duckdb.Error:
        half = len(parts) // 2  # one of them is damaged: halves find out which
        if not half:
            return {parts[0]: None}
        first, second = parts[:half], parts[half:]
        return read_blocks(first, kind, base, names) | read_blocks(second, kind, base, names)
    return {part: blocks.get(part) for part in parts}


def _read(
    database: duckdb.DuckDBPyConnection,
    parts: Mapping[Path, Schema],
    base: Sequence[str],
    names: Sequence[str],
) -> dict[Path, Block] | None:
    """The blocks of parts that can be read; None if a row lacks a value that all must have."""
    if not parts:
        return {}
    counts = dict(
        database.execute(
            f"select file_name, num_rows from parquet_file_metadata({files_of(parts)})"
        ).fetchall()
    )
    spelled = {part: {name.lower(): name for name, _ in schema} for part, schema in parts.items()}

    def wanted(part: Path) -> list[str]:
        return [spelled[part][name] for name in names if name in spelled[part]]

    found = {}
    for others, group in groupby(sorted(parts, key=wanted), wanted):
        same = list(group)
        columns = {name: name for name in base}
        columns |= {f"c{at}": f"{identifier(name)}::DOUBLE" for at, name in enumerate(others)}
        values = database.execute(f"select {select(columns)} from {scan(same)}").fetchnumpy()
        if any(np.ma.is_masked(values[name]) for name in base):
            return None
        integers = {name: np.asarray(values[name], np.int64) for name in base}
        floats = {name: plain(values[f"c{at}"]) for at, name in enumerate(others)}
        begin = 0
        for part in same:
            end = begin + counts[str(part.resolve())]
            found[part] = Block(
                spelled[part],
                {name: column[begin:end] for name, column in integers.items()},
                {name: column[begin:end] for name, column in floats.items()},
            )
            begin = end
    return found


def plain(values: Any) -> Floats:
    """A column as DuckDB returns it, with `missing` for null."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values, np.float64)
    there = ~np.ma.getmaskarray(values)
    column = missing(len(values))
    column[there] = values.data[there]
    return column
