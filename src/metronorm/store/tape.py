"""The tape: append-only files of JSON lines in one folder, written by one process.

| file | holds | next | by |
| --- | --- | --- | --- |
| `_next.jsonl` | nothing yet | `_live.jsonl` | `rotate`, second rename |
| `_live.jsonl` | the stretch that is being written | `_part-00000.jsonl` | `rotate`, first rename |
| `_part-00000.jsonl` | a finished stretch | `part-00000.parquet` | `sealing.py` |
| `part-00000.parquet` | a sealed stretch | | |

Readers of Parquet data sets ignore names that begin with an underscore. `_next.jsonl` is made
before the renames: if the disk is too full for a new file, `_live.jsonl` stays as it is. Between
the two renames there is no `_live.jsonl`; a reader then looks again (`unsealed_lines.read_tape`).

The end of `_live.jsonl`:

| state | event | next |
| --- | --- | --- |
| whole lines | `append` succeeds | whole lines |
| whole lines | the disk takes a part of a line | the part is cut off: whole lines |
| whole lines | the same, and the file cannot be cut | torn |
| torn | `append`, which writes a newline first | whole lines, and one that is damaged |
| any | the process is killed inside a write | torn; the ring has the line |
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

# a value that JSON cannot hold, such as a path or a dtype, becomes its text
_encode = msgspec.json.Encoder(enc_hook=str).encode


def encode(record: Any) -> bytes:
    """A record as one line of a tape."""
    return _encode(record) + b"\n"


class Tape:
    """Appends whole lines to `_live.jsonl` in a folder.

    Once `append` has returned, the lines survive the death of the process, but not of the machine:
    there is no fsync. `last_error` is the error of the last append, None if it succeeded.

    Args:
        folder: the folder of the tape.
        identity: the `id` of the run. If another run has taken the place of this one, nothing is
            written into its folder. None: write into the folder of any run.

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
        """Bytes of `_live.jsonl`; 0 if the file was removed."""
        try:
            return os.fstat(self._file).st_size
        except OSError:  # no file is open: the folder was removed
            return 0

    def append(self, *pieces: bytes | memoryview) -> int:
        """Append whole lines; an error of the disk is kept in `last_error`.

        Args:
            pieces: the lines; a line may begin in one piece and end in the next.

        Returns:
            How many bytes of them are on the tape now: whole lines, from the first on.
        """
        added = int(self._torn)  # bytes that are not of the pieces
        if added:
            pieces = (b"\n", *pieces)
        wanted = sum(len(memoryview(piece)) for piece in pieces)
        written = 0
        try:
            self._reopen_if_moved()
            written = os.writev(self._file, pieces)
            if written < wanted:  # the disk became full, or a signal interrupted the write
                rest = b"".join(pieces)
                while written < wanted:
                    written += os.write(self._file, rest[written:])
        except OSError as error:
            # a copy: the error itself has a traceback, which would keep the ring's memory alive
            self.last_error = OSError(error.errno, error.strerror)
            whole = b"".join(pieces).rfind(b"\n", 0, written) + 1
            if written > whole:
                self.cut(written - whole)
            return max(whole - added, 0)
        self.last_error = None
        self._torn = False
        return written - added

    def _reopen_if_moved(self) -> None:
        """Open `_live.jsonl` again if the folder was replaced, and the open file is not in it.

        Raises:
            FileNotFoundError: there is no folder, it is of another run, or another process writes
                its tape.
        """
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
        is_other = self.folder.exists()
        reason = "another run is in its place" if is_other else os.strerror(errno.ENOENT)
        raise FileNotFoundError(errno.ENOENT, reason)

    def cut(self, count: int) -> None:
        """Cut off the last `count` bytes: a line without its end."""
        try:
            os.ftruncate(self._file, os.fstat(self._file).st_size - count)
        except OSError:
            self._torn = True

    def rotate(self) -> None:
        """Finish this stretch: `_live.jsonl` becomes the next part, and a new one begins.

        Raises:
            OSError: the disk refuses a new file; the tape stays as it was.
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
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _run_of(folder: Path) -> str:
    return read_run_info(folder.parents[2]).id


def is_written(folder: Path) -> bool:
    """Whether a process writes this tape; False also where no lock can be seen."""
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
