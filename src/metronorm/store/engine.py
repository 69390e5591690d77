"""DuckDB, imported when it is first needed.

Opening a database takes about 30 ms of processor time, far more than a query of a small run. So a
database whose connection has ended is kept for the next one. No two connections share one: a
damaged file may make DuckDB give up a database as a whole.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

_MOST_FREE = 4  # of the same settings

# databases without a connection, by their settings
_free: dict[tuple[object, ...], list[duckdb.DuckDBPyConnection]] = {}
# a forked process crashes where it ends a database of its parent (DuckDB 2.0)
os.register_at_fork(before=_free.clear)
atexit.register(_free.clear)


def connect(**config: Any) -> duckdb.DuckDBPyConnection:
    """Open an empty database in memory.

    What does not fit into memory goes into a separate folder among the temporary files. DuckDB's
    default is `.tmp` in the working directory, which may change and which other processes may use.

    Tables, views and settings must be temporary, or of the session: they end with the connection.

    Args:
        config: settings of DuckDB, such as `threads`.
    """
    import duckdb

    temporary = tempfile.gettempdir()
    free = _free.setdefault((temporary, *sorted(config.items())), [])
    database = _sound(free)
    if database is None:
        spill = Path(temporary, f"metronorm-{uuid.uuid4().hex}")  # made by DuckDB, if used
        database = duckdb.connect(config={"temp_directory": str(spill), **config})
    connection = database.cursor()
    weakref.finalize(connection, _give_back, database, free).atexit = False
    return connection


def _sound(free: list[duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection | None:
    """Take one of these databases that DuckDB has not given up."""
    import duckdb

    while free:
        try:
            database = free.pop()
            database.execute("select 1")
        except (IndexError, duckdb.Error):  # (another thread may have taken the last one)
            continue
        return database
    return None


def _give_back(database: duckdb.DuckDBPyConnection, free: list[duckdb.DuckDBPyConnection]) -> None:
    if len(free) < _MOST_FREE:
        free.append(database)
