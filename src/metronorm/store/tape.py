"""The tape: append-only files of JSON lines in one folder, written by one process.

`_live.jsonl` is being written; a stretch that is finished is renamed to `_part-00000.jsonl`, and
becomes `part-00000.parquet` when it is sealed. What reads a folder of Parquet files passes over
names that begin with an underscore.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import RunError
from metronorm.files import open_regular
from metronorm.store.run_directory import read_run_info

if TYPE_CHECKING:
    from pathlib import Path

LIVE = "_live.jsonl"
NEXT = "_next.jsonl"
_PART = re.compile(r"_?part-(\d+)\.")

# what JSON has no form for (a path, a dtype) is put down as its text
_encode = msgspec.json.Encoder(enc_hook=str).encode


def encode(record: Any) -> bytes:
    """One line of a tape."""
    return _encode(record) + b"\n"


class Tape:
    """Appends lines to `_live.jsonl` in `folder`: whole lines, or none of a line.

    What a full disk let through of a line is cut off again. Once `append` has returned, the lines
    survive the death of the process (though not of the machine: there is no fsync).

    Args:
        folder: of the tape.
        identity: of its run; a folder that was put into the place of this one and belongs to
            another run is left alone. None: whichever run it is of.

    Raises:
        OSError: the folder is not writable.
        RunError: another process writes this tape.
    """

    def __init__(self, folder: Path, identity: str | None = None) -> None:
        self.folder, self._identity = folder, identity
        self.last_error: OSError | None = None
        self._torn = False
        self._file = self._open()

    def _open(self, name: str = LIVE) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = open_regular(self.folder / name, flags, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise RunError(
                "one process writes a tape",
                got=f"{self.folder}, which another one is writing",
                fix="start each process with a RANK of its own, or in a run of its own",
            ) from None
        except OSError:  # a file system without locks
            pass
        return file

    @property
    def size(self) -> int:
        """Bytes of `_live.jsonl`."""
        try:
            return os.fstat(self._file).st_size
        except OSError:  # it was taken away
            return 0

    def append(self, *pieces: bytes | memoryview) -> int:
        """Append whole lines; how many bytes of them are on the tape now: all, or up to a line.

        Args:
            pieces: of the lines; a line may begin in one and end in the next.
        """
        ended = int(self._torn)
        if ended:
            pieces = (b"\n", *pieces)
        wanted = sum(len(memoryview(piece)) for piece in pieces)
        written = 0
        try:
            self._find()
            written = os.writev(self._file, pieces)
            if written < wanted:  # a disk that fills up, or a signal, stopped it half way
                rest = b"".join(pieces)
                while written < wanted:
                    written += os.write(self._file, rest[written:])
        except OSError as error:
            # not the error itself: its frames would keep the pieces, and so the ring's memory
            self.last_error = OSError(error.errno, error.strerror)
            whole = b"".join(pieces).rfind(b"\n", 0, written) + 1
            if written > whole:
                self.cut(written - whole)
            return max(whole - ended, 0)
        self.last_error = None
        self._torn = False
        return written - ended

    def _find(self) -> None:
        """Write into the folder that is there, not into a file that was removed with another."""
        here = self.folder / LIVE
        if self._file >= 0:
            if here.exists() and here.stat().st_ino == os.fstat(self._file).st_ino:
                return
            os.close(self._file)
            self._file, self._torn = -1, False
        try:
            if self._identity is None or self._identity == _run_of(self.folder):
                self._file = self._open()
                return
        except RunError:  # another process writes it, or there is no run
            pass
        why = "another run is in its place" if self.folder.exists() else os.strerror(errno.ENOENT)
        raise FileNotFoundError(errno.ENOENT, why)

    def cut(self, count: int) -> None:
        """Take back the last `count` bytes: a line without its end."""
        try:
            os.ftruncate(self._file, os.fstat(self._file).st_size - count)
        except OSError:
            self._torn = True

    def rotate(self) -> None:
        """Finish this stretch: `_live.jsonl` becomes the next part, a new one is begun.

        Raises:
            OSError: the folder does not take it; the tape goes on as it was.
        """
        number = next_part(self.folder)
        file = self._open(NEXT)
        try:
            (self.folder / LIVE).rename(self.folder / f"_part-{number:05}.jsonl")
            (self.folder / NEXT).rename(self.folder / LIVE)
        except OSError:
            os.close(file)
            raise
        os.close(self._file)
        self._file = file

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _run_of(folder: Path) -> str:
    return read_run_info(folder.parents[2]).id


def is_written(folder: Path) -> bool:
    """Whether a process of this machine is writing a tape."""
    try:
        file = open_regular(folder / LIVE)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(file)
    return False


def next_part(folder: Path) -> int:
    """The number of the stretch that is being written."""
    numbers = (_PART.match(path.name) for path in folder.glob("*part-*"))
    return 1 + max((int(found[1]) for found in numbers if found), default=-1)
