"""From lines to columns, in DuckDB: one column for each phase and each metric."""

from __future__ import annotations

import glob
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import RunError
from metronorm.store.schema import COLUMNS, MAPS, OPTIONAL, UNATTRIBUTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import duckdb

    Tapes = Sequence[tuple[dict[str, int], Sequence[bytes]]]  # place and lines of each

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def load_lines(
    connection: duckdb.DuckDBPyConnection, kind: str, tapes: Tapes, table: str
) -> dict[str, str]:
    """Put lines into a temporary table; SQL of every column that they have, by its name.

    Args:
        connection: gets the table.
        kind: of the lines.
        tapes: lines that are whole, with the columns that say where they are from.
        table: its name.

    Raises:
        OSError: the folder for temporary files is full.
    """
    arrays = _arrays(tapes, MAPS[kind])
    forms = dict.fromkeys((name for place, _ in tapes for name in place), "BIGINT") | COLUMNS[kind]
    listed = ", ".join(f"{literal(name)}: {literal(form)}" for name, form in forms.items())
    known = set(forms).difference(arrays, OPTIONAL)
    longest = 16 << 20  # (DuckDB's own; each of its threads takes that twice)
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
            f"columns = {{{listed}}}, maximum_object_size = {longest})"
        )
    columns = {name: identifier(name) for name in forms if name in known and name not in arrays}
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
    """The values of a map as arrays, in which every name has its place: frequent ones come first.

    So a line with few of many names stays short. `names` are in the order in which they came up.
    """

    def __init__(self, column: str, counts: Counter[str]) -> None:
        self._column = column
        self.names = list(counts)
        self._places = {name: at for at, (name, _) in enumerate(counts.most_common())}

    def of(self, values: dict[str, Any]) -> list[Any]:
        """The array of a map."""
        places = self._places
        array = [None] * (1 + max(map(places.__getitem__, values), default=-1))
        for name, value in values.items():
            array[places[name]] = value
        return array

    def sql(self, names: Sequence[str]) -> str:
        """The value of the first of some names that a line has."""
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
    """Names that SQL takes for the same are the same column."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(name.lower(), []).append(name)
    return spellings.values()


def select(columns: dict[str, str]) -> str:
    """What stands behind `select` for columns by their names."""
    return ", ".join(f"{sql} as {identifier(name)}" for name, sql in columns.items())


def literal(value: str) -> str:
    """An SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def literal_glob(path: Path) -> str:
    """What DuckDB's readers take for this one file, whatever signs its path has.

    They read every path as a pattern: `runs/layers=[64]` would be `runs/layers=6`. (`copy ... to`
    does not: it takes `literal(str(path))`.)

    Raises:
        RunError: a path that DuckDB has no form for, with both a backslash and one of `*?[`.
    """
    plain = str(path.resolve())
    escaped = glob.escape(plain)
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
