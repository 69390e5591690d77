"""Opening a run that may come from anybody: one that would take all memory is refused."""

from __future__ import annotations

import contextlib
import os
import shlex
from typing import TYPE_CHECKING

import duckdb
import msgspec

from metronorm.errors import MetronormError, RunError
from metronorm.runs import open_run
from metronorm.store.run_directory import RUN_FILE, read_run_info, tape_folders
from metronorm.store.schema import KINDS
from metronorm.store.unsealed_lines import unsealed_files
from metronorm.text import printable, size

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.runs import Run
    from metronorm.store.run_directory import RunInfo

# no fault of the board: a run may come from anybody
BAD_INPUT = (MetronormError, duckdb.Error, msgspec.MsgspecError, OSError, MemoryError)
MOST_UNSEALED = 512 << 20  # bytes
MOST_INFO = 64 << 20  # bytes of a run.json


def open_checked(directory: Path) -> Run:
    """Open a run as `open_run` does.

    Raises:
        RunError: see `check_size`; or there is no run, or it cannot be read.
    """
    check_size(directory)
    return open_run(directory)


def read_info(directory: Path) -> RunInfo:
    """The description of a run, as `read_run_info` reads it.

    Raises:
        RunError: as `read_run_info`; or the file is too large to be one.
    """
    _check_info(directory)
    return read_run_info(directory)


def check_size(directory: Path) -> None:
    """Check that what is read whole of a run fits into memory, where it takes many times its size.

    The clock seals a tape at 16 MiB, so that there are few lines, however long a run is.

    Raises:
        RunError: too many lines are not sealed, `run.json` is too large, the path is no text, or a
            folder may not be read.
    """
    if "\ufffd" in os.fsencode(directory).decode(errors="replace"):  # as DuckDB needs it
        raise RunError(
            "the path of a run on the board must be UTF-8",
            got=printable(str(directory)),
            fix="rename its folder",
        )
    _check_info(directory)
    lines = 0
    for kind in KINDS:
        for folder in tape_folders(directory, kind):
            try:
                lines += sum(path.stat().st_size for path in unsealed_files(folder))
            except FileNotFoundError:  # it was sealed meanwhile
                continue
    if lines > MOST_UNSEALED:
        raise RunError(
            f"a run on the board may have {size(MOST_UNSEALED)} of lines that are not sealed",
            got=f"{size(lines)} in {directory}",
            fix=f"metronorm seal {shlex.quote(str(directory))}",
        )


def _check_info(directory: Path) -> None:
    path = directory / RUN_FILE
    with contextlib.suppress(OSError):  # who reads it says what is wrong
        if (bytes_ := path.stat().st_size) > MOST_INFO:
            raise RunError(
                f"a run on the board may have a {RUN_FILE} of {size(MOST_INFO)}",
                got=f"{size(bytes_)} in {path}",
            )
