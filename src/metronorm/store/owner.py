"""The owner of a rank: at any time only one process writes a rank of a run.

The owner has an exclusive lock on `.owners/rank=0` in the run's directory. That file names the
owner (an `Owner` as JSON), and the owner touches it once a second. Closing empties the file; when
the owner dies instead, the kernel releases the lock and the name stays.

`OwnerFile.is_owned` is the only place that decides whether a rank is owned:

| lock | the file names | owned | because |
| --- | --- | --- | --- |
| held | any process, or none | yes | a living process holds it |
| free | no process | no | the owner closed the run, or the file is new |
| free | a process of this machine | no | the kernel released the lock of a dead process |
| free | a process of another machine | unknown | locks of that machine may not reach this one |
| unsupported | no process | no | the owner closed the run, or the file is new |
| unsupported | a process | unknown | on this file system nothing can be locked |

Where it is unknown, the touches answer: a process that wants to own the rank watches the file for
`PATIENCE_SECONDS`; a reader compares its time with the clock (`OwnerFile.is_touched`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from metronorm.errors import RunError
from metronorm.files import open_regular

TOUCH_SECONDS = 1.0
PATIENCE_SECONDS = 4.0  # an owner that has not touched its file for this long is taken for dead
_LOCK_SECONDS = 0.2  # longer than a reader holds a lock, or the kernel needs for a killed process
_DAY_SECONDS = 86_400  # the clocks of two machines differ by less
_MOST_BYTES = 4096  # read of an owner file

Lock = Literal["held", "free", "unsupported"]


class Owner(msgspec.Struct):
    """The process that writes a rank; `machine` differs between two boots and two machines."""

    process: int
    host: str
    machine: str

    def __str__(self) -> str:
        if self.is_this_process:
            return "this process"
        return f"process {self.process} on {self.host}" if self.process else "another process"

    @property
    def is_this_process(self) -> bool:
        """Whether it is the process that asks."""
        return (self.process, self.machine) == (os.getpid(), _machine())


@dataclass(frozen=True)
class OwnerFile:
    """What one look at the owner file of a rank has found.

    Args:
        owner: the process that the file names; None if it names no process.
        lock: whether a process holds the lock.
        touched_seconds: the time of the last touch, in seconds since 1970.
    """

    owner: Owner | None
    lock: Lock
    touched_seconds: float

    @property
    def is_owned(self) -> bool | None:
        """Whether a living process owns the rank; None if this look cannot know it."""
        if self.lock == "held":
            return True
        if self.owner is None:
            return False
        if self.lock == "free" and self.owner.machine == _machine():
            return False
        return None

    @property
    def is_touched(self) -> bool:
        """Whether the file was touched in the last `PATIENCE_SECONDS`, by this machine's clock."""
        return abs(time.time() - self.touched_seconds) <= PATIENCE_SECONDS


def read_owner_file(directory: Path, rank: int) -> OwnerFile | None:
    """Look at the owner file of a rank once, without waiting; None if there is none to read."""
    try:
        file = open_regular(_path(directory, rank), os.O_RDONLY)
    except OSError:  # runs of older versions, and imported runs, have none
        return None
    try:
        lock = _try_lock(file, fcntl.LOCK_SH)
        return OwnerFile(_read_owner(file), lock, os.fstat(file).st_mtime)
    finally:
        os.close(file)  # releases the lock: a process that claims the rank waits that long


class Ownership:
    """Owns a rank of a run for this process, until `release` or the death of the process.

    Args:
        directory: the directory of the run.
        rank: the rank to own.

    Raises:
        RunError: another process, or another clock of this process, owns the rank.
        OSError: the directory is not writable.
    """

    def __init__(self, directory: Path, rank: int) -> None:
        path = _path(directory, rank)
        path.parent.mkdir(exist_ok=True)
        self._path = path
        self._file = open_regular(path, os.O_RDWR | os.O_CREAT)
        self._touched = time.monotonic()
        try:
            _check_free(self._file, path)
        except BaseException:
            self._close_file()
            raise
        me = msgspec.json.encode(Owner(os.getpid(), platform.node(), _machine()))
        with contextlib.suppress(OSError):  # on a full disk the lock alone protects the rank
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, me, 0)

    def confirm(self) -> None:
        """Check that the rank is still owned.

        Raises:
            RunError: a process of another machine saw no touch for a while and has taken the rank.
        """
        owner = _read_owner(self._file)
        if owner is not None and not owner.is_this_process:
            self._close_file()
            raise _owned_error(self._path, owner)

    def touch(self) -> None:
        """Show other machines that this process lives; touches once in `TOUCH_SECONDS` at most."""
        now = time.monotonic()
        if self._file >= 0 and now - self._touched >= TOUCH_SECONDS:
            self._touched = now
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Give up the rank; a second call does nothing."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        self._close_file()

    def detach_after_fork(self) -> None:
        """Close the file in the child of a fork; the parent still owns the rank."""
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _path(directory: Path, rank: int) -> Path:
    return directory / ".owners" / f"rank={rank}"


def _check_free(file: int, path: Path) -> None:
    """Raise RunError if the rank is owned; else keep the exclusive lock, where there are locks."""
    lock = _wait_for_lock(file)
    found = OwnerFile(_read_owner(file), lock, os.fstat(file).st_mtime)
    owned = found.is_owned
    if owned is None:
        age = abs(time.time() - found.touched_seconds)
        owned = age < _DAY_SECONDS and _is_touched_meanwhile(path)
    if owned:
        raise _owned_error(path, found.owner)


def _wait_for_lock(file: int) -> Lock:
    """Lock a file exclusively; "held" if another process holds it for longer than a look takes."""
    until = time.monotonic() + _LOCK_SECONDS
    while (lock := _try_lock(file, fcntl.LOCK_EX)) == "held" and time.monotonic() <= until:
        time.sleep(_LOCK_SECONDS / 20)
    return lock


def _try_lock(file: int, operation: int) -> Lock:
    """Lock a file without waiting; return the state of the lock before."""
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError:  # a file system without locks
        return "unsupported"
    return "free"


def _is_touched_meanwhile(path: Path) -> bool:
    until = time.monotonic() + PATIENCE_SECONDS
    first = _time_and_size(path)
    while time.monotonic() < until:
        time.sleep(TOUCH_SECONDS / 10)
        if _time_and_size(path) != first:
            return True
    return False


def _time_and_size(path: Path) -> tuple[int, int]:
    # opening makes a network file system ask its server again, instead of its own memory
    with contextlib.suppress(OSError):
        file = open_regular(path, os.O_RDONLY)
        try:
            found = os.fstat(file)
            return found.st_mtime_ns, found.st_size
        finally:
            os.close(file)
    return 0, 0


def _read_owner(file: int) -> Owner | None:
    """The process that an open owner file names; None if the file is empty."""
    data = os.pread(file, _MOST_BYTES, 0)
    try:
        return msgspec.json.decode(data, type=Owner) if data else None
    except msgspec.MsgspecError:
        return Owner(0, "an unknown host", "")


def _owned_error(path: Path, owner: Owner | None) -> RunError:
    directory, rank = path.parents[1], path.name
    name = "another process" if owner is None else str(owner)
    return RunError(
        "one process at a time writes a run" + (f" as {rank}" if rank != "rank=0" else ""),
        got=f"{directory}, which {name} is writing",
        fix="close the clock that is open there"
        if owner is not None and owner.is_this_process
        else "wait until it ends or end it, then resume; or take another directory",
    )


def _machine() -> str:
    """The same text in two processes means that a lock of one is seen by the other."""
    with contextlib.suppress(OSError):  # there is no such file on macOS
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()
