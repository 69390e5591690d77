"""DuckDB, loaded when it is needed."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


def connect(**config: Any) -> duckdb.DuckDBPyConnection:
    """An empty database in memory.

    What finds no room there goes into a folder of its own among the temporary files: DuckDB's own
    choice is `.tmp` in the working folder, which may change, and be shared with other processes.

    Args:
        config: settings of DuckDB.
    """
    import duckdb

    spill = Path(tempfile.gettempdir(), f"metronorm-{uuid.uuid4().hex}")  # made when needed
    return duckdb.connect(config={"temp_directory": str(spill), **config})
