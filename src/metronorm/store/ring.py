"""The ring: lines on their way to the disk, in memory that outlives the process.

The training thread never meets the disk. It copies a line into a ring in shared memory (a file on
a memory file system) and goes on; `writer.py` carries the lines to the tape. A process that is
killed leaves the ring behind, and whoever reads the run next on that machine finds in it what was
not on the tape yet. A ring is locked as long as its process lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = 4096
_NUMBERS = 64  # of it; then the length and the path of the tape's folder
_MAGIC = 0x4D455452_4F4E3031
_MAGIC_AT, _CAPACITY_AT, _DEVICE_AT, _INODE_AT, _HEAD_AT, _TAIL_AT, _PATH_AT, _SPACE_AT = range(8)


def ring_path(identity: str, kind: str, attempt: int, rank: int) -> Path:
    """Where the ring of a tape lies; `identity` is the run's."""
    return _shared_folder() / f"metronorm-{identity}-{kind}-{attempt}-{rank}"


def _shared_folder() -> Path:
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())


class Ring:
    """Lines between one producer and one consumer of the same process.

    Args:
        path: of the shared file; None, or one that cannot be made: memory of the process only,
            and `shared` is false.
        folder: of the tape, so that a copy of the run is not taken for it.
        capacity: in bytes.
    """

    def __init__(self, path: Path | None, folder: Path, capacity: int) -> None:
        self.capacity = capacity
        self._path = path
        self._closed = False
        self._file = -1
        place = folder.stat()
        self._memory = self._share() or mmap.mmap(-1, _HEADER + capacity)
        self.shared = self._file >= 0
        self._header = memoryview(self._memory)[:_NUMBERS].cast("q")
        self._data = memoryview(self._memory)[_HEADER:]
        self._header[_CAPACITY_AT] = capacity
        self._header[_DEVICE_AT], self._header[_INODE_AT] = place.st_dev, place.st_ino
        where = os.fsencode(folder.resolve())
        if len(where) <= _HEADER - _NUMBERS:
            self._memory[_NUMBERS : _NUMBERS + len(where)] = where
            self._header[_PATH_AT] = len(where)
        self._header[_SPACE_AT] = _name_space()
        self._header[_MAGIC_AT] = _MAGIC
        self._head = 0
        self._room = capacity  # how far the head may go before the tail must be looked at

    def _share(self) -> mmap.mmap | None:
        if self._path is None:
            return None
        try:
            self._file = _create(self._path)
        except OSError:
            return None
        try:
            # all of it now: a page that is missing later would be a SIGBUS
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, 0, _HEADER + self.capacity)
            else:
                os.write(self._file, bytes(_HEADER + self.capacity))
            # a map keeps a descriptor: not the one with the lock, which a child of fork lets go
            mapped = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return mmap.mmap(mapped, _HEADER + self.capacity)
            finally:
                os.close(mapped)
        except OSError:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1
            return None

    def put(self, line: bytes) -> bool:
        """Add a line; False if there is no room."""
        head = self._head
        end = head + len(line)
        if end > self._room:
            self._room = self._header[_TAIL_AT] + self.capacity
            if end > self._room:
                return False
        at = head % self.capacity
        until = at + len(line)
        if until <= self.capacity:
            self._data[at:until] = line
        else:
            first = self.capacity - at
            self._data[at:] = line[:first]
            self._data[: len(line) - first] = line[first:]
        self._head = end
        self._header[_HEAD_AT] = end  # last: what is before it is whole
        return True

    @property
    def filled(self) -> int:
        """Bytes that the consumer has not taken."""
        return self._head - self._header[_TAIL_AT]

    def peek(self) -> list[memoryview]:
        """What was not taken yet, in at most two pieces."""
        return _between(self._data, self._header[_TAIL_AT], self._header[_HEAD_AT])

    def take(self, count: int) -> None:
        """Give the first `count` bytes' room free."""
        self._header[_TAIL_AT] += count

    def close(self, *, keep: bool = False) -> None:
        """Remove the shared file, or leave it to be found; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._header.release()
        self._data.release()
        with contextlib.suppress(BufferError):  # somebody still looks into it: freed after that
            self._memory.close()
        if self._file >= 0:
            if self._path is not None and not keep:
                self._path.unlink(missing_ok=True)
            self.forget()

    def forget(self) -> None:
        """Let go of the file, not of what is in it: for the child of a fork."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _create(path: Path) -> int:
    """A new file that is locked; OSError if there is one already."""
    # what is no link and nobody else's: the folder is everybody's
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        file = os.open(path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            path.unlink(missing_ok=True)
            os.close(file)
            raise
        if os.fstat(file).st_nlink:
            return file
        # before it was locked somebody took it for what a dead process had begun
        os.close(file)


def _lock_abandoned(file: int) -> None:
    """OSError if its process lives, or somebody else has removed it."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.fstat(file).st_nlink:  # another may have its name by now
        raise FileNotFoundError("the ring is removed")


def read_ring(path: Path, folder: Path) -> bytes | None:
    """What lies in the ring of a tape and may not be on it yet; empty where there is no ring.

    Consistent while its process writes: what that process overwrites meanwhile is on the tape.
    None if the ring is another user's, and may not be read.
    """
    try:
        with _owned(path, os.O_RDONLY, folder) as file, _mapped(file) as memory:
            return _content(memory, folder)
    except PermissionError:
        return None
    except (OSError, ValueError):
        return b""


@contextlib.contextmanager
def abandoned_ring(path: Path, folder: Path) -> Iterator[bytes | None]:
    """The bytes of a ring whose process is dead, or None; removed when the block ends well."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_owned(path, os.O_RDWR, folder))
            _lock_abandoned(file)
            memory = stack.enter_context(_mapped(file))
            if not _is_of(memory, folder):
                raise FileNotFoundError("the ring of another folder")
            content = _content(memory, folder)
        except (OSError, ValueError):
            yield None
            return
        yield content
        path.unlink(missing_ok=True)


def abandoned_rings() -> list[tuple[Path, Path]]:
    """All rings of dead processes on this machine, each with the folder of its tape.

    Those of deleted runs are removed, and those whose processes died while they made them.
    """
    found = []
    for path in sorted(_shared_folder().glob("metronorm-*-*-*-*")):
        with contextlib.suppress(OSError, ValueError), _owned(path, os.O_RDWR) as file:
            _lock_abandoned(file)
            folder, useless = _look(file)
            if useless:
                path.unlink(missing_ok=True)
            elif folder:
                found.append((path, folder))
    return found


def _look(file: int) -> tuple[Path | None, bool]:
    """The folder of the ring's tape, if it is there, and whether the ring is of use to nobody."""
    size = os.fstat(file).st_size
    if size < _HEADER:
        return None, size == 0
    with _mapped(file) as memory, memory[:_NUMBERS].cast("q") as header:
        if header[_MAGIC_AT] != _MAGIC:
            return None, header[_MAGIC_AT] == 0
        where = bytes(memory[_NUMBERS : _NUMBERS + header[_PATH_AT]])
        folder = Path(os.fsdecode(where))
        if _is_of(memory, folder):
            return folder, False
        # what another container calls by that path may well be there
        return None, bool(where) and header[_SPACE_AT] == _name_space()


@contextlib.contextmanager
def _owned(path: Path, flags: int, folder: Path | None = None) -> Iterator[int]:
    file = open_regular(path, flags | os.O_NOFOLLOW)
    try:
        owners = {os.getuid()} | ({folder.stat().st_uid} if folder else set())
        if os.fstat(file).st_uid not in owners:
            raise PermissionError("somebody else's file")
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def _mapped(file: int) -> Iterator[memoryview]:
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as memory, memoryview(memory) as view:
        yield view


def _name_space() -> int:
    """Processes with the same number mean the same by a path."""
    with contextlib.suppress(OSError):  # there is none on macOS
        return Path("/proc/self/ns/mnt").stat().st_ino
    return 0


def _is_of(memory: memoryview, folder: Path) -> bool:
    """Whether this is the ring of the tape in this folder, not of a copy of it."""
    try:
        place = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    expected = (_MAGIC, len(memory) - _HEADER, place.st_dev, place.st_ino)
    if len(memory) < _HEADER:
        return False
    with memory[:_NUMBERS].cast("q") as header:
        return tuple(header[_MAGIC_AT:_HEAD_AT]) == expected


def _content(memory: memoryview, folder: Path) -> bytes:
    if not _is_of(memory, folder):
        return b""
    with memory[:_NUMBERS].cast("q") as header:
        head = header[_HEAD_AT]
        first = header[_TAIL_AT]
        copied = b"".join(_between(memory[_HEADER:], first, head))
        overtaken = header[_TAIL_AT] - first  # what was taken meanwhile may be overwritten
        return copied[overtaken:]


def _between(data: memoryview, tail: int, head: int) -> list[memoryview]:
    capacity = len(data)
    if not 0 < head - tail <= capacity:
        return []
    at, until = tail % capacity, head % capacity
    return [data[at:until]] if at < until else [data[at:], data[:until]]
