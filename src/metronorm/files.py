"""Files written so that a reader, or a crash, meets the old one or the new one, never a half."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import shutil
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DAY_SECONDS = 86_400
_serial = itertools.count()  # tells threads of one process apart


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """A descriptor of a regular file; never waits, as opening a named pipe does.

    Raises:
        OSError: it cannot be opened, or is a directory, a pipe, a socket or a device.
    """
    file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: Path) -> bytes:
    """What a regular file holds; `path.read_bytes()` that never waits for a named pipe.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    with open(open_regular(path), "rb") as file:
        return file.read()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: written aside, fsynced, renamed.

    Raises:
        OSError: the disk is full or the directory cannot be written; `path` is as it was.
    """
    with file_aside(path) as aside:
        aside.write_bytes(data)


def create_atomic(path: Path, data: bytes) -> None:
    """As `write_atomic`, of several processes only the first.

    Raises:
        FileExistsError: `path` is there.
        OSError: the disk is full or the directory cannot be written.
    """
    aside = _aside(path)
    try:
        aside.write_bytes(data)
        sync(aside)
        os.link(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def file_aside(target: Path) -> Iterator[Path]:
    """The path of a new file to write, which replaces `target` when the block ends well.

    It is fsynced first. A block that raises leaves no trace.

    Raises:
        OSError: the disk is full or the directory cannot be written; `target` is as it was.
    """
    aside = _aside(target)
    try:
        yield aside
        sync(aside)
        aside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync(target.parent)


@contextlib.contextmanager
def directory_aside(target: Path) -> Iterator[Path]:
    """A new directory to fill, which becomes `target` in one rename when the block ends well.

    Everything in it is fsynced first. A block that raises leaves no trace; a killed process leaves
    a hidden `.NAME.HOST.PID.SERIAL.tmp`, which `remove_leftovers` clears.

    Raises:
        OSError: the disk is full, or `target` exists by now and is not empty.
    """
    aside = _aside(target)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in aside.rglob("*"):
            sync(path)
        sync(aside)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync(target.parent)


def remove_directory(directory: Path) -> None:
    """Remove a directory so that it is gone at once: renamed aside, then deleted."""
    aside = _aside(directory)
    with contextlib.suppress(FileNotFoundError):
        directory.rename(aside)
        shutil.rmtree(aside)


def remove_leftovers(directory: Path, *, now: float | None = None) -> None:
    """Remove what killed writers left aside in `directory` (`.NAME.HOST.PID.SERIAL.tmp`).

    What a living process of this machine writes is left alone. Of other machines that share the
    file system nobody knows which processes live: theirs is removed once nothing in it has changed
    for a day before `now` (seconds since the epoch; None: the clock's).
    """
    for path in directory.glob(".*.tmp"):
        parts = path.name.split(".")
        if len(parts) < 6 or not (parts[-2].isdigit() and parts[-3].isdigit()):
            continue  # somebody else's
        if parts[-4] == _host():
            if lives(int(parts[-3])):
                continue
        elif (time.time() if now is None else now) - _last_change(path) < _DAY_SECONDS:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make durable what was written to a file, or renamed in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # (a pipe would be waited for)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{next(_serial)}.tmp")


def _host() -> str:
    return platform.node().replace(".", "-") or "localhost"


def lives(process: int) -> bool:
    """Whether a process of this number is alive on this machine."""
    try:
        os.kill(process, 0)  # signal 0 is not delivered: it only asks
    except (ProcessLookupError, OverflowError):  # (no process has so high a number)
        return False
    except PermissionError:
        return True
    return True


def _last_change(path: Path) -> float:
    """When anything in `path` last changed, in seconds since the epoch; 0 if it is gone."""
    latest = 0.0
    for one in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            latest = max(latest, one.lstat().st_mtime)
    return latest
