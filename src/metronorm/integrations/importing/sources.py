"""Where runs are imported from: files that are found, and read as far as they can be."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")


@contextlib.contextmanager
def readable(source: Path) -> Iterator[None]:
    """Say in one line that a source cannot be read, if that is so.

    Raises:
        DataError: that.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            "what is to be imported must be readable",
            got=f"{error.filename or source}: {error.strerror or error}",
        ) from None


def find_files(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder or below whose names fit, by their paths; no pipes or devices."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def read_each(paths: list[Path], read: Callable[[Path], T]) -> tuple[list[T], list[str]]:
    """What can be read of several files, and for each that cannot, why it is left out.

    Raises:
        DataError: why the first one cannot, where none can.
    """
    found: list[T] = []
    notices: list[str] = []
    first: DataError | None = None
    for path in paths:
        try:
            with readable(path):
                found.append(read(path))
        except DataError as error:
            first = first or error
            notices.append(f"{path.name} was left out: {error}")
    if first is not None and not found:
        raise first
    return found, notices
