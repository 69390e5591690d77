"""From lines to columns, in DuckDB: one column for each phase and each metric."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from metronorm.clock.ledger import UNATTRIBUTED
from metronorm.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import duckdb

# what lines hold beside maps, and what of it is a column only where it is known
_LINES = {
    "ticks": {
        "tick": "BIGINT",
        "time_ns": "BIGINT",
        "wall_ns": "BIGINT",
        "beats": "BIGINT",
        "clock_ns": "BIGINT",
        "arrival_ns": "BIGINT",
        "phases": "MAP(VARCHAR, BIGINT)",
        "metrics": "MAP(VARCHAR, DOUBLE)",
    },
    "events": {"tick": "BIGINT", "time_ns": "BIGINT", "event": "VARCHAR", "fields": "JSON"},
    "resources": {"tick": "BIGINT", "time_ns": "BIGINT", "values": "MAP(VARCHAR, DOUBLE)"},
}
FIXED = {
    kind: [name for name, form in columns.items() if not form.startswith("MAP")]
    for kind, columns in _LINES.items()
}
_OPTIONAL = ("arrival_ns",)
_PLACE = {"attempt": "BIGINT", "rank": "BIGINT"}


def columns_of(
    connection: duckdb.DuckDBPyConnection, kind: str, lines: Path, *, placed: bool = False
) -> str:
    """SQL of a table with a column for every name in a file of lines that are whole.

    Args:
        connection: gets a temporary table `lines`.
        kind: of the lines.
        lines: the file.
        placed: the lines have `attempt` and `rank` too.
    """
    forms = (_PLACE if placed else {}) | _LINES[kind]
    listed = ", ".join(f"{literal(name)}: {literal(form)}" for name, form in forms.items())
    file = literal(literal_glob(lines))
    connection.execute(
        f"create or replace temp table lines as select * from read_json({file}, "
        f"format = 'newline_delimited', columns = {{{listed}}}, maximum_object_size = 1073741824)"
    )
    columns = [
        identifier(name)
        for name, form in forms.items()
        if not form.startswith("MAP")
        and (name not in _OPTIONAL or _any(connection, f"{name} is not null"))
    ]
    if kind == "ticks":
        columns[columns.index('"clock_ns"')] = 'coalesce("clock_ns", 0) as "clock_ns"'
        phases = sorted(_keys(connection, "phases"), key=lambda name: name == UNATTRIBUTED)
        columns += [_column("phases", names, f"{names[0]}_ns") for names in _by_lower_case(phases)]
        columns += [
            _column("metrics", names, names[0])
            for names in _by_lower_case(_keys(connection, "metrics"))
        ]
    elif kind == "resources":
        for name in _keys(connection, "values"):
            whole = name.endswith(("_bytes", "_ns"))
            columns.append(_column("values", [name], name, "BIGINT" if whole else "DOUBLE"))
    return f"select {', '.join(columns)} from lines"


def _by_lower_case(names: Iterable[str]) -> Iterable[list[str]]:
    """Names that SQL takes for the same are the same column."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(name.lower(), []).append(name)
    return spellings.values()


def _column(column: str, keys: list[str], name: str, form: str = "") -> str:
    values = ", ".join(f"{identifier(column)}[{literal(key)}]" for key in keys)
    value = f"coalesce({values})"
    return f"{f'try_cast({value} as {form})' if form else value} as {identifier(name)}"


def _any(connection: duckdb.DuckDBPyConnection, condition: str) -> bool:
    found = connection.execute(f"select exists(select 1 from lines where {condition})").fetchall()
    return bool(found[0][0])


def _keys(connection: duckdb.DuckDBPyConnection, column: str) -> list[str]:
    """The names in a column of maps, in the order in which they came up."""
    maps = identifier(column)
    rows = connection.execute(
        f"""
        select key from (
            select unnest(map_keys({maps})) as key, tick,
                   generate_subscripts(map_keys({maps}), 1) as position
            from lines)
        group by key order by min(tick::DOUBLE * 100000 + position)"""
    ).fetchall()
    return [row[0] for row in rows]


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
