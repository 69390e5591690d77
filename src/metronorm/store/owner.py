"""Who writes a run: each rank of it is one process's at a time.

That process holds a lock on `.owners/rank=0` in the run's directory, where it has put down who it
is, and touches the file once a second. The kernel lets go of the lock when the process dies.

| the file is | and was written | so the rank is |
| --- | --- | --- |
| locked | | owned |
| not locked, empty | | free: its owner closed it, or it is new |
| not locked | on this machine | free: its owner died |
| not locked | on another machine, whose locks may not reach this one | owned, if it is touched |
| on a file system without locks | anywhere | owned, if it is touched |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from pathlib import Path

import msgspec

from metronorm.errors import RunError
from metronorm.files import open_regular

BEAT_SECONDS = 1.0
PATIENCE_SECONDS = 4.0  # how long to look whether a file is touched
_LOOK_SECONDS = 0.2  # how long others may look at a lock, or a killed process take to let go
_DAY_SECONDS = 86_400  # no two machines' clocks differ by more
_SMALL = 4096


class Owner(msgspec.Struct):
    """The process that writes; `machine` differs between two boots and between two machines."""

    process: int
    host: str
    machine: str

    def __str__(self) -> str:
        if (self.process, self.machine) == (os.getpid(), _machine()):
            return "this very process"
        return f"process {self.process} on {self.host}"


def check_not_written(directory: Path, rank: int = 0) -> None:
    """Raise RunError if a process is writing this rank of a run; it says which and where.

    A cheap look before anything is loaded: nothing is claimed, so another process may be faster.
    Where only another machine can know, it takes up to `PATIENCE_SECONDS`.
    """
    path = _path(directory, rank)
    try:
        file = open_regular(path, os.O_RDONLY)
    except OSError:  # nobody has written it yet, or this process cannot; opening the clock says so
        return
    try:
        _check(file, path, fcntl.LOCK_SH)
    finally:
        os.close(file)


class Ownership:
    """One rank of a run is this process's, until `release` or its death.

    Raises:
        RunError: another process, or another clock of this one, is writing it.
        OSError: the directory is not writable.
    """

    def __init__(self, directory: Path, rank: int) -> None:
        path = _path(directory, rank)
        path.parent.mkdir(exist_ok=True)
        self._path = path
        self._file = open_regular(path, os.O_RDWR | os.O_CREAT)
        self._touched = time.monotonic()
        try:
            _check(self._file, path, fcntl.LOCK_EX)
        except BaseException:
            self.forget()
            raise
        me = msgspec.json.encode(Owner(os.getpid(), platform.node(), _machine()))
        with contextlib.suppress(OSError):  # a full disk: the lock tells, though not whose it is
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, me, 0)

    def confirm(self) -> None:
        """Raise RunError if another machine, which saw no touch for a while, has taken the rank."""
        owner = _read(self._file)
        if owner is not None and (owner.process, owner.machine) != (os.getpid(), _machine()):
            self.forget()
            raise _taken(self._path, owner)

    def touch(self) -> None:
        """Show other machines that this process lives; at most once in `BEAT_SECONDS`."""
        now = time.monotonic()
        if self._file >= 0 and now - self._touched >= BEAT_SECONDS:
            self._touched = now
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Let others write the rank; doing it twice does nothing."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        self.forget()

    def forget(self) -> None:
        """Let go of the file, not of the rank: for the child of a fork."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _path(directory: Path, rank: int) -> Path:
    return directory / ".owners" / f"rank={rank}"


def _check(file: int, path: Path, lock: int) -> None:
    """RunError if somebody owns the rank; else an exclusive lock is kept where there are locks."""
    try:
        _lock(file, lock)
        locked = True
    except BlockingIOError:
        raise _taken(path, _read(file)) from None
    except OSError:  # a file system without locks
        locked = False
    owner = _read(file)
    if locked and lock == fcntl.LOCK_SH:
        fcntl.flock(file, fcntl.LOCK_UN)
    if owner is None or (locked and owner.machine == _machine()):
        return
    if abs(time.time() - os.fstat(file).st_mtime) < _DAY_SECONDS and _is_touched(path):
        raise _taken(path, owner)


def _lock(file: int, lock: int) -> None:
    """Lock a file; BlockingIOError if another process has it for longer than a look takes."""
    until = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, lock | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise
        time.sleep(_LOOK_SECONDS / 20)


def _is_touched(path: Path) -> bool:
    until = time.monotonic() + PATIENCE_SECONDS
    first = _look(path)
    while time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 10)
        if _look(path) != first:
            return True
    return False


def _look(path: Path) -> tuple[int, int]:
    # opened anew: what a network file system keeps in memory of a file is asked for again
    with contextlib.suppress(OSError):
        file = open_regular(path, os.O_RDONLY)
        try:
            found = os.fstat(file)
            return found.st_mtime_ns, found.st_size
        finally:
            os.close(file)
    return 0, 0


def _read(file: int) -> Owner | None:
    """Who the file names; None: nobody."""
    data = os.pread(file, _SMALL, 0)
    try:
        return msgspec.json.decode(data, type=Owner) if data else None
    except msgspec.MsgspecError:
        return Owner(0, "an unknown host", "")


def _taken(path: Path, owner: Owner | None) -> RunError:
    directory, rank = path.parents[1], path.name
    who = "another process" if owner is None or not owner.process else str(owner)
    return RunError(
        "one process at a time writes a run" + (f" as {rank}" if rank != "rank=0" else ""),
        got=f"{directory}, which {who} is writing",
        fix="close the clock that is open there"
        if who == "this very process"
        else "wait until it ends or end it, then go on; or take another directory",
    )


def _machine() -> str:
    """What processes have in common whose locks reach each other for certain."""
    with contextlib.suppress(OSError):  # there is none on macOS
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()
