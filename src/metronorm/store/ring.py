"""The ring: a queue of lines between the training thread and the disk, which survives the process.

The training thread never waits for a disk: it copies a line into a ring in shared memory (a file on
a memory file system) and continues. The thread of `writer.py` carries the lines to the tape. A
process that is killed leaves its ring behind. Whoever next reads the run on that machine finds
there the lines that are not on the tape.

The shared file, in words of 8 bytes (signed, in the byte order of the machine):

| byte | name | meaning | written |
| --- | --- | --- | --- |
| 0 | magic | marks a ring; 0 while the ring is made | once, last of all |
| 8 | capacity | bytes of data | once |
| 16, 24 | device, inode | the tape's folder: a copy of the run has another one | once |
| 32 | head | bytes that were ever put | by the producer, after the bytes |
| 40 | tail | bytes that were ever taken | by the consumer, when they are on the tape |
| 48, 56 | path length, mount namespace | of the path that follows | once |
| 64 | path | of the tape's folder, to find the tape of an abandoned ring | once |
| 4096 | data | byte number n of all that was put is at 4096 + n % capacity | by the producer |

`head` and `tail` only grow, so `head - tail` bytes wait, and a full ring differs from an empty one.
Each has one writer, so no lock is needed. The order of the accesses is what matters:

| who | order | because |
| --- | --- | --- |
| producer, `put` | copies the line, then moves `head` | before `head` all lines are whole |
| consumer, `take` | writes to the tape, then moves `tail` | no line is in neither of them |
| reader, `read_ring` | `head`, `tail`, the bytes, `tail` again | see below |

While a reader copies, the consumer may move `tail`, and the producer may overwrite bytes before the
new `tail`. Their lines are on the tape by then. So the reader leaves out all bytes before the
second `tail`, and reads the tape after the ring.

Producer and consumer are threads of one interpreter, and its lock (the GIL) orders their accesses.
After a kill, every store of the dead process has reached the memory. Only a reader beside a living
process depends on the CPU. x86-64 shows stores in their order. A CPU that does not may show `head`
before the line: the reader then finds bytes that are no record, and the line at its next look.

The file is locked (`flock`) as long as its process lives. The kernel releases that lock in any
case, so a ring that can be locked is abandoned:

| a file | lock | state | next |
| --- | --- | --- | --- |
| without a magic | held | a process makes it | its magic is written |
| without a magic | free | the process died while making it | `abandoned_rings` removes it |
| with a magic | held | its process lives | `close` removes it, or keeps it with lines |
| with a magic | free | abandoned | `abandoned_ring` yields its lines and removes it |
| with a magic | free, and its tape's folder is gone | useless | `abandoned_rings` removes it |
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = 4096  # bytes before the data
_WORDS = 64  # bytes of words at the beginning; the path follows
_MAGIC = 0x4D455452_4F4E3031
(
    _MAGIC_AT,
    _CAPACITY_AT,
    _DEVICE_AT,
    _INODE_AT,
    _HEAD_AT,
    _TAIL_AT,
    _PATH_LENGTH_AT,
    _NAMESPACE_AT,
) = range(8)


def ring_path(identity: str, kind: str, attempt: int, rank: int) -> Path:
    """The path of the shared file of a tape's ring.

    Args:
        identity: the `id` of the run.
        kind: the kind of the tape's lines, one of `schema.KINDS`.
        attempt: the number of the attempt.
        rank: the rank.
    """
    return shared_folder() / f"metronorm-{identity}-{kind}-{attempt}-{rank}"


def shared_folder() -> Path:
    """The folder of all rings: in shared memory where the system has it, or for temporary files."""
    shared = Path("/dev/shm")
    if shared.is_dir():
        return shared
    import tempfile  # here, as `import metronorm.clock` must be quick

    return Path(tempfile.gettempdir())


class Ring:
    """A queue of lines between one producer and one consumer, two threads of one process.

    `shared` is true if the lines survive the process.

    Args:
        path: the shared file to make; if it is None or cannot be made, the ring is in memory of
            the process only.
        folder: the folder of the tape; must exist.
        capacity: bytes of data that the ring holds.
    """

    def __init__(self, path: Path | None, folder: Path, capacity: int) -> None:
        self.capacity = capacity
        self._path = path
        self._closed = False
        self._file = -1
        place = folder.stat()
        self._memory = self._share() or mmap.mmap(-1, _HEADER + capacity)
        self.shared = self._file >= 0
        self._header = memoryview(self._memory)[:_WORDS].cast("q")
        self._data = memoryview(self._memory)[_HEADER:]
        self._header[_CAPACITY_AT] = capacity
        self._header[_DEVICE_AT], self._header[_INODE_AT] = place.st_dev, place.st_ino
        name = os.fsencode(folder.resolve())
        if len(name) <= _HEADER - _WORDS:
            self._memory[_WORDS : _WORDS + len(name)] = name
            self._header[_PATH_LENGTH_AT] = len(name)
        self._header[_NAMESPACE_AT] = _mount_namespace()
        self._header[_MAGIC_AT] = _MAGIC
        self._head = 0
        self._limit = capacity  # the head may go so far before `put` must read the tail again

    def _share(self) -> mmap.mmap | None:
        if self._path is None:
            return None
        try:
            self._file = _create(self._path)
        except OSError:
            return None
        try:
            # take all memory now: a page that is missing later would kill the process by SIGBUS
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, 0, _HEADER + self.capacity)
            else:
                os.write(self._file, bytes(_HEADER + self.capacity))
            # mmap keeps a duplicate of its descriptor, which a child of fork inherits and cannot
            # close. Without the second `open` that child would hold the lock after this process
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
        """Add a line; False if it does not fit. Runs on the training thread at every tick."""
        head = self._head
        end = head + len(line)
        if end > self._limit:
            self._limit = self._header[_TAIL_AT] + self.capacity
            if end > self._limit:
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
        self._header[_HEAD_AT] = end  # last: all bytes before the head are whole lines
        return True

    @property
    def filled(self) -> int:
        """How many bytes wait."""
        return self._head - self._header[_TAIL_AT]

    def peek(self) -> list[memoryview]:
        """The lines that wait, in at most two pieces; one line may be in both."""
        return _pieces(self._data, self._header[_TAIL_AT], self._header[_HEAD_AT])

    def take(self, count: int) -> None:
        """Remove the first `count` bytes, once they are on the tape."""
        self._header[_TAIL_AT] += count

    def close(self, *, keep: bool = False) -> None:
        """Close the ring; a second call does nothing.

        Args:
            keep: leave the shared file, with the lines that wait, for the next reader.
        """
        if self._closed:
            return
        self._closed = True
        self._header.release()
        self._data.release()
        with contextlib.suppress(BufferError):  # a piece of `peek` is in use: freed with that piece
            self._memory.close()
        if self._file >= 0:
            if self._path is not None and not keep:
                self._path.unlink(missing_ok=True)
            self._close_file()

    def detach_after_fork(self) -> None:
        """Close the file in the child of a fork, so that its lock is the parent's alone."""
        self._close_file()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _create(path: Path) -> int:
    """Create and lock a file; OSError if there is one already."""
    # every user may write into the folder: follow no link, take no file that is there
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
        # before the file was locked, `abandoned_rings` of another process has removed it
        os.close(file)


def _lock_abandoned(file: int) -> None:
    """Lock a ring; OSError if its process lives, or another process has removed it."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.fstat(file).st_nlink:  # a new one may have its name by now
        raise FileNotFoundError("the ring is removed")


def read_ring(path: Path, folder: Path) -> bytes | None:
    """The lines in the ring of a tape; some may already be on the tape.

    The ring may be written meanwhile. A line that is left out was on the tape before this returns.

    Args:
        path: the shared file, as `ring_path` gives it.
        folder: the folder of the tape.

    Returns:
        Whole lines; empty if there is no ring; None if the ring belongs to another user and may
        not be read.
    """
    try:
        with _open_trusted(path, os.O_RDONLY, folder) as file, _mapped(file) as memory:
            return _content(memory, folder)
    except PermissionError:
        return None
    except (OSError, ValueError):
        return b""


@contextlib.contextmanager
def abandoned_ring(path: Path, folder: Path) -> Iterator[bytes | None]:
    """The lines of an abandoned ring, which is removed when the block ends without an error.

    Yields None if there is no such ring, or its process lives. While the block runs, no other
    process takes these lines.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_open_trusted(path, os.O_RDWR, folder))
            _lock_abandoned(file)
            memory = stack.enter_context(_mapped(file))
            if not _belongs_to(memory, folder):
                raise FileNotFoundError("the ring of another folder")
            content = _content(memory, folder)
        except (OSError, ValueError):
            yield None
            return
        yield content
        path.unlink(missing_ok=True)


def abandoned_rings() -> list[tuple[Path, Path]]:
    """All abandoned rings of this machine that have a tape: (shared file, folder of the tape).

    Rings of deleted runs are removed, and those that a process had not made completely when it
    died.
    """
    found = []
    for path in sorted(shared_folder().glob("metronorm-*-*-*-*")):
        with contextlib.suppress(OSError, ValueError), _open_trusted(path, os.O_RDWR) as file:
            _lock_abandoned(file)
            folder, is_useless = _tape_folder(file)
            if is_useless:
                path.unlink(missing_ok=True)
            elif folder:
                found.append((path, folder))
    return found


def _tape_folder(file: int) -> tuple[Path | None, bool]:
    """The folder of an abandoned ring's tape, if it is there; whether the ring can be removed."""
    size = os.fstat(file).st_size
    if size < _HEADER:
        return None, size == 0
    with _mapped(file) as memory, memory[:_WORDS].cast("q") as header:
        if header[_MAGIC_AT] != _MAGIC:
            return None, header[_MAGIC_AT] == 0
        name = bytes(memory[_WORDS : _WORDS + header[_PATH_LENGTH_AT]])
        folder = Path(os.fsdecode(name))
        if _belongs_to(memory, folder):
            return folder, False
        # in the namespace of another container that path may name another folder
        return None, bool(name) and header[_NAMESPACE_AT] == _mount_namespace()


@contextlib.contextmanager
def _open_trusted(path: Path, flags: int, folder: Path | None = None) -> Iterator[int]:
    """Open a file that belongs to this user, or to the user who owns the tape's folder.

    Every user may put files into the folder of the rings: those of others are not trusted.
    """
    file = open_regular(path, flags | os.O_NOFOLLOW)
    try:
        owners = {os.getuid()} | ({folder.stat().st_uid} if folder else set())
        if os.fstat(file).st_uid not in owners:
            raise PermissionError("the file of another user")
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def _mapped(file: int) -> Iterator[memoryview]:
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as memory, memoryview(memory) as view:
        yield view


def _mount_namespace() -> int:
    """Two processes with the same number see the same folder under the same path."""
    with contextlib.suppress(OSError):  # there are none on macOS
        return Path("/proc/self/ns/mnt").stat().st_ino
    return 0


def _belongs_to(memory: memoryview, folder: Path) -> bool:
    """Whether this is the ring of the tape in this folder: not of a copy, and not half made."""
    try:
        place = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    expected = (_MAGIC, len(memory) - _HEADER, place.st_dev, place.st_ino)
    if len(memory) < _HEADER:
        return False
    with memory[:_WORDS].cast("q") as header:
        return tuple(header[_MAGIC_AT:_HEAD_AT]) == expected


def _content(memory: memoryview, folder: Path) -> bytes:
    """The bytes that wait, in the reader's order of accesses (see the module)."""
    if not _belongs_to(memory, folder):
        return b""
    with memory[:_WORDS].cast("q") as header:
        head = header[_HEAD_AT]
        tail = header[_TAIL_AT]
        copied = b"".join(_pieces(memory[_HEADER:], tail, head))
        taken = header[_TAIL_AT] - tail  # meanwhile: these bytes may be overwritten already
        return copied[taken:]


def _pieces(data: memoryview, tail: int, head: int) -> list[memoryview]:
    """The data from `tail` to `head`, in at most two pieces."""
    capacity = len(data)
    if not 0 < head - tail <= capacity:
        return []
    begin, end = tail % capacity, head % capacity
    return [data[begin:end]] if begin < end else [data[begin:], data[:end]]
