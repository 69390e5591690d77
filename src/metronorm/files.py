"""Write files and directories so that others see either the old or the new one, also after a crash.

A new file is written next to its target under a temporary name (*aside*), fsynced and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import platform
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_DAY_SECONDS = 86_400
_serial = itertools.count()  # a number for each temporary name, so threads do not share one


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open a regular file without waiting; opening a named pipe would wait.

    Args:
        path: the file.
        flags: flags of `os.open`.
        mode: permissions of a file that is created.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        OSError: the file cannot be opened, or is a directory, a pipe, a socket or a device.
    """
    file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: Path) -> bytes:
    """Read a regular file, as `path.read_bytes()` does, without waiting for a named pipe.

    Raises:
        OSError: the file cannot be opened, or is no regular file.
    """
    with open(open_regular(path), "rb") as file:
        return file.read()


def shown_path(path: Path) -> str:
    """A path for people: relative to the current directory if it is below it."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return str(path)
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, or replace the file there.

    Raises:
        OSError: the disk is full or the directory cannot be written; `path` is as it was.
    """
    with file_aside(path) as aside:
        aside.write_bytes(data)


def create_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` if it does not exist; of several processes only the first succeeds.

    Raises:
        FileExistsError: `path` exists.
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
    """Replace `target` by a new file when the block ends without an exception.

    The file is fsynced first. If the block raises, the new file is removed.

    Yields:
        The path to write to.

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
    """Create `target` in one rename when the block ends without an exception.

    Everything in the directory is fsynced first, and its files are for those who may read it:
    safetensors writes files for their owner alone. If the block raises, the directory is removed.
    A killed process leaves a hidden `.NAME.HOST.PID.SERIAL.tmp`, which `remove_leftovers` removes.

    Yields:
        An empty directory to fill.

    Raises:
        OSError: the disk is full, or `target` exists and is not empty.
    """
    aside = _aside(target)
    aside.mkdir(parents=True)
    try:
        yield aside
        readable = aside.stat().st_mode & 0o444
        for path in aside.rglob("*"):
            path.chmod(path.stat().st_mode | readable)
            sync(path)
        sync(aside)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync(target.parent)


@contextlib.contextmanager
def scratch_directory(near: Path) -> Iterator[Path]:
    """A directory for what is needed for a while only; it is removed at the end.

    A killed process leaves one that `remove_leftovers` removes.

    Args:
        near: a path in the folder where it is made, of whose name it has some.

    Raises:
        OSError: it cannot be made.
    """
    scratch = _aside(near)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_directory(directory: Path) -> None:
    """Remove a directory; it is renamed first, so that nobody sees it half removed.

    Raises:
        OSError: the directory cannot be renamed or removed.
    """
    aside = _aside(directory)
    with contextlib.suppress(FileNotFoundError):
        directory.rename(aside)
        shutil.rmtree(aside)


def remove_leftovers(directory: Path, *, now: float | None = None) -> None:
    """Remove the temporary files that killed processes left; arguments as of `leftovers`."""
    for path in leftovers(directory, now=now):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def leftovers(directory: Path, *, now: float | None = None) -> list[Path]:
    """The temporary files that killed processes left (`.NAME.HOST.PID.SERIAL.tmp`).

    | written on | process | left |
    | --- | --- | --- |
    | this machine | alive | no |
    | this machine | dead | yes |
    | another machine | unknown | if nothing in it has changed for a day |

    Args:
        directory: directory with the temporary files.
        now: current time in seconds since the epoch; None: `time.time()`.
    """
    found = []
    for path in directory.glob(".*.tmp"):
        parts = path.name.split(".")
        if len(parts) < 6 or not (parts[-2].isdigit() and parts[-3].isdigit()):
            continue  # not a name of `_aside`
        if parts[-4] == _host():
            if is_alive(int(parts[-3])):
                continue
        elif (time.time() if now is None else now) - _last_change(path) < _DAY_SECONDS:
            continue
        found.append(path)
    return found


def is_inside(path: Path, directory: Path) -> bool:
    """Whether what a path leads to is in a directory, also where links are on the way."""
    # `Path.resolve` raises a RuntimeError for a loop of links before Python 3.13
    ways = os.path.realpath(path), os.path.realpath(directory)
    return os.path.commonpath(ways) == ways[1]


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk.

    Raises:
        OSError: it cannot be opened or flushed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{next(_serial)}.tmp")


def _host() -> str:
    return platform.node().replace(".", "-") or "localhost"


def is_alive(process: int) -> bool:
    """Whether a process with this id exists on this machine."""
    try:
        os.kill(process, 0)  # signal 0 only checks
    except (ProcessLookupError, OverflowError):  # an overflow: no process id is so large
        return False
    except PermissionError:
        return True
    return True


def _last_change(path: Path) -> float:
    """Latest modification time in `path`, in seconds since the epoch; 0 if it does not exist."""
    latest = 0.0
    for one in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            latest = max(latest, one.lstat().st_mtime)
    return latest
