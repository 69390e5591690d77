"""The tape: one append-only file of JSON lines, written by one process, one write(2) per record."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

LIVE = "live.jsonl"

# what JSON has no form for (a path, a dtype) is put down as its text
_encode = msgspec.json.Encoder(enc_hook=str).encode


def encode(record: Any) -> bytes:
    """One line of a tape."""
    return _encode(record) + b"\n"


class Tape:
    """Appends records to `path`; a write that fails drops the record, counts it, and goes on.

    What a full disk let through of a line is cut off again, so the next record starts on a line of
    its own. Once `write` has returned, the record survives the death of the process (though not of
    the machine: there is no fsync per tick); a process killed inside it may leave a torn last line.
    """

    def __init__(self, path: Path) -> None:
        self.dropped = 0
        self.last_error: OSError | None = None
        self._torn = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o644)

    def write(self, line: bytes) -> bool:
        """Append one encoded record; False if it was dropped."""
        if self._torn:
            line = b"\n" + line
        written = 0
        try:
            written = os.write(self._file, line)
            while written < len(line):  # a disk that fills up, or a signal, stopped it half way
                written += os.write(self._file, line[written:])
        except OSError as error:
            self.dropped += 1
            self.last_error = error
            if written:
                self._cut(written)
            return False
        self._torn = False
        return True

    def _cut(self, written: int) -> None:
        """Take back the first part of a line whose rest found no room."""
        try:
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
        except OSError:
            self._torn = True

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def ends_torn(path: Path) -> bool:
    """Whether the last line of a tape was cut short, as a kill in the middle of it leaves it."""
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
