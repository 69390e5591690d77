"""Files written so that a reader, or a crash, meets the old one or the new one, never a half."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: written aside, fsynced, renamed.

    Raises:
        OSError: the disk is full or the directory cannot be written; `path` is as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def directory_aside(target: Path) -> Iterator[Path]:
    """A new directory to fill, which becomes `target` in one rename when the block ends well.

    Every file in it is fsynced first. A block that raises leaves no trace; a killed process leaves
    a hidden `.NAME.PID.tmp`, which `remove_leftovers` clears. `target` must not exist.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(aside)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_directory(target.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left aside in `directory` (names `.NAME.PID.tmp`)."""
    for path in directory.glob(".*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdigit() and Path("/proc").exists() and Path("/proc", process).exists():
            continue  # its writer lives
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
