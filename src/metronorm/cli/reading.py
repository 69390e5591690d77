"""Reading several runs for a command: the others are read if one of them cannot be."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from metronorm.errors import RunError
from metronorm.store.parquet_parts import out_of_memory
from metronorm.store.run_directory import RUN_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


@dataclass(frozen=True)
class Runs(Generic[T]):
    """What was read of some runs.

    Attributes:
        found: what was read, by path.
        left_out: a sentence for each path that could not be read.
        failed: whether a run could not be read. A path that is no run (a file, or a folder without
            `run.json`) is left out, but is not a failure: `runs/*` may name such paths.
    """

    found: dict[Path, T]
    left_out: list[str]
    failed: bool


def read_runs(paths: Iterable[Path], read: Callable[[Path], T]) -> Runs[T]:
    """Read all runs that can be read.

    Args:
        paths: the directories of the runs, at least one.
        read: reads one run.

    Raises:
        RunError: no run can be read; the error is that of the first.
        OutOfMemoryError: a run takes more memory than there is.
    """
    found, left_out, errors, failed = {}, [], [], False
    for path in dict.fromkeys(paths):
        try:
            with damage_explained(path):
                found[path] = read(path)
        except RunError as error:
            errors.append(error)
            stray = path.exists() and not (path / RUN_FILE).exists()
            failed |= not stray
            left_out.append(
                f"{path} is not a run and is left out" if stray else f"left out: {error}"
            )
    if not found:
        raise errors[0]
    return Runs(found, left_out, failed)


@contextlib.contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors into errors that name the run and what to do.

    Raises:
        RunError: a file of the run is damaged.
        OutOfMemoryError: the run takes more memory than there is.
    """
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise out_of_memory(error) from None
    except duckdb.ProgrammingError:
        raise  # a bug in Metronorm
    except duckdb.Error as error:
        raise RunError(
            "a run's files must be readable",
            got=f"{path}: {str(error).partition(chr(10))[0]}",
            fix=f"metronorm seal {shlex.quote(str(path))}, which puts damaged parts aside",
        ) from None
