"""Several runs on one command line: one that cannot be read does not keep the others away."""

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
    """What was read of runs, by their paths; `left_out` says of which nothing was, and why.

    What `runs/*` names beside runs (a file, a folder without `run.json`) is left out as well, but
    is no failure; `failed` is whether anything else was.
    """

    found: dict[Path, T]
    left_out: list[str]
    failed: bool


def read_runs(paths: Iterable[Path], read: Callable[[Path], T]) -> Runs[T]:
    """Read those of some runs that can be read.

    Args:
        paths: of the runs, at least one.
        read: one of them.

    Raises:
        RunError: none can be read: why the first cannot.
        OutOfMemoryError: reading one takes more memory than there is.
    """
    found, left_out, errors, failed = {}, [], [], False
    for path in dict.fromkeys(paths):
        try:
            with damage_said(path):
                found[path] = read(path)
        except RunError as error:
            errors.append(error)
            stray = path.exists() and not (path / RUN_FILE).exists()
            failed |= not stray
            left_out.append(f"{path} is no run and left out" if stray else f"left out: {error}")
    if not found:
        raise errors[0]
    return Runs(found, left_out, failed)


@contextlib.contextmanager
def damage_said(path: Path) -> Iterator[None]:
    """Say of what DuckDB meets in a run's files which run that is, and what to do.

    Raises:
        RunError: a file is damaged.
        OutOfMemoryError: reading it takes more memory than there is.
    """
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise out_of_memory(error) from None
    except duckdb.ProgrammingError:
        raise  # a mistake of ours
    except duckdb.Error as error:
        raise RunError(
            "a run's files must be readable",
            got=f"{path}: {str(error).partition(chr(10))[0]}",
            fix=f"metronorm seal {shlex.quote(str(path))}, which puts parts aside that are damaged",
        ) from None
