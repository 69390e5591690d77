"""From lines to columns, in DuckDB: one column for each phase and each metric.

A column for each name would make wide rows, and DuckDB slow. So a map of a line is first loaded as
one array, in which every name has its place, and a column is an element of that array.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import RunError
from metronorm.store.schema import COLUMNS, MAPS, OPTIONAL, UNATTRIBUTED
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import duckdb

    # for each tape the columns that name its place, such as attempt and rank, and its lines
    Tapes = Sequence[tuple[dict[str, int], Sequence[bytes]]]

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def load_lines(
    connection: duckdb.DuckDBPyConnection, kind: str, tapes: Tapes, table: str
) -> dict[str, str]:
    """Load lines into a temporary table.

    Args:
        connection: the database that gets the table.
        kind: the kind of the lines.
        tapes: whole lines, with the columns that name their place.
        table: the name of the table.

    Returns:
        SQL for every column that the lines have, by its name.

    Raises:
        OSError: the folder for temporary files is full.
    """
    arrays = _arrays(tapes, MAPS[kind])
    types = dict.fromkeys((name for place, _ in tapes for name in place), "BIGINT") | COLUMNS[kind]
    typed = ", ".join(f"{literal(name)}: {literal(form)}" for name, form in types.items())
    known = set(types).difference(arrays, OPTIONAL)
    longest = 16 << 20  # DuckDB's default; each of its threads takes twice as much memory
    import tempfile  # here, as `import metronorm.clock` must be quick

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "lines.jsonl")
        with open(path, "wb") as file:
            for place, lines in tapes:
                for line in lines:
                    record = place | _decode(line)
                    known.update(record)
                    for name, array in arrays.items():
                        record[name] = array.of(record[name])
                    longest = max(longest, file.write(msgspec.json.encode(record) + b"\n"))
        connection.execute(
            f"create or replace temp table {identifier(table)} as select * from "
            f"read_json({literal(literal_glob(path))}, format = 'newline_delimited', "
            f"columns = {{{typed}}}, maximum_object_size = {longest})"
        )
    columns = {name: identifier(name) for name in types if name in known and name not in arrays}
    if kind == "ticks":
        columns["clock_ns"] = "coalesce(clock_ns, 0)"
        phases = sorted(arrays["phases"].names, key=lambda name: name == UNATTRIBUTED)
        for names in _by_lower_case(phases):
            columns[f"{names[0]}_ns"] = arrays["phases"].sql(names)
        for names in _by_lower_case(arrays["metrics"].names):
            columns[names[0]] = arrays["metrics"].sql(names)
    elif kind == "resources":
        for name in arrays["values"].names:
            value = arrays["values"].sql([name])
            whole = name.endswith(("_bytes", "_ns"))
            columns[name] = f"try_cast({value} as BIGINT)" if whole else value
    return columns


class _Array:
    """The arrays of the values of a map, in which every name has a place.

    Frequent names come first, so that a line with few of many names has a short array. `names` are
    in the order of their first appearance.

    Args:
        column: the name of the map.
        counts: how often each name appears, in the order of their first appearance.
    """

    def __init__(self, column: str, counts: Counter[str]) -> None:
        self._column = column
        self.names = list(counts)
        self._places = {name: at for at, (name, _) in enumerate(counts.most_common())}

    def of(self, values: dict[str, Any]) -> list[Any]:
        """The array of one map, up to the last place that it uses."""
        places = self._places
        array = [None] * (1 + max(map(places.__getitem__, values), default=-1))
        for name, value in values.items():
            array[places[name]] = value
        return array

    def sql(self, names: Sequence[str]) -> str:
        """SQL for the value of the first of these names that a line has."""
        values = [f"{identifier(self._column)}[{self._places[name] + 1}]" for name in names]
        return values[0] if len(values) == 1 else f"coalesce({', '.join(values)})"


def _arrays(tapes: Tapes, maps: Sequence[str]) -> dict[str, _Array]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in maps}
    if maps:
        for _, lines in tapes:
            for line in lines:
                record = _decode(line)
                for name in maps:
                    counts[name].update(record[name].keys())
    return {name: _Array(name, counted) for name, counted in counts.items()}


def _by_lower_case(names: Iterable[str]) -> Iterable[list[str]]:
    """Group names that SQL takes for one column: those that differ in case only."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(name.lower(), []).append(name)
    return spellings.values()


def select(columns: dict[str, str]) -> str:
    """SQL to be put behind `select`, for the SQL of columns by their names."""
    return ", ".join(f"{sql} as {identifier(name)}" for name, sql in columns.items())


def literal(value: str) -> str:
    """An SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def literal_glob(path: Path) -> str:
    """The pattern that makes DuckDB's readers read exactly this file.

    They take every path for a pattern: `runs/layers=[64]` would match `runs/layers=6`. (`copy ...
    to` takes a plain path.)

    Raises:
        RunError: the path has both a backslash and one of `*?[`, for which DuckDB has no pattern,
            or is not UTF-8.
    """
    plain = str(path.resolve())
    escaped = glob.escape(plain)
    if "\ufffd" in os.fsencode(plain).decode(errors="replace"):
        raise RunError(
            "a path that DuckDB reads must be UTF-8", got=printable(plain), fix="rename the folder"
        )
    if "\\" in plain and escaped != plain:
        raise RunError(
            "a path that DuckDB reads cannot have a backslash and one of * ? [ as well",
            got=plain,
            fix="rename the folder",
        )
    return escaped


def identifier(value: str) -> str:
    """An SQL identifier."""
    return '"' + value.replace('"', '""') + '"'
