"""DuckDB, imported when it is first needed."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


def connect(**config: Any) -> duckdb.DuckDBPyConnection:
    """Open an empty database in memory.

    What does not fit into memory goes into a separate folder among the temporary files. DuckDB's
    default is `.tmp` in the working directory, which may change and which other processes may use.

    Args:
        config: settings of DuckDB, such as `threads`.
    """
    import duckdb

    spill = Path(tempfile.gettempdir(), f"metronorm-{uuid.uuid4().hex}")  # made by DuckDB, if used
    return duckdb.connect(config={"temp_directory": str(spill), **config})
