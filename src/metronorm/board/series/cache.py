"""Columns of long runs, kept in `RUN/board/levels/` so that their Parquet is decoded only once.

Everything there may be deleted at any time. A file holds one column of a tape as plain numbers,
after a line of JSON that names the parts it was read from, each with size and time of change, and a
checksum. A file that does not fit, or is damaged, is ignored and made again. Short columns are not
kept: Parquet gives a million values in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from metronorm.files import is_inside, read_regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metronorm.board.series._arrays import Floats

    Stamp = tuple[str, int, int]  # name, size and time of change of a part

FOLDER = ("board", "levels")
LEAST_ROWS = 2_000_000
_LINE = 64  # the head of a file is filled up to a multiple of this
_LONGEST_HEAD = 64 << 20


class _Head(msgspec.Struct, array_like=True):
    version: int
    column: str
    parts: list[tuple[str, int, int]]
    rows: int
    checksum: int


class Cache:
    """The cached columns of one tape.

    Args:
        folder: the folder of the tape, in the directory of its run.
    """

    def __init__(self, folder: Path) -> None:
        kind, attempt, rank = folder.parts[-3:]
        self._run = folder.parents[2]
        self._folder = self._run.joinpath(*FOLDER, kind, attempt, rank)

    def load(self, column: str, parts: Sequence[Path], rows: int) -> tuple[Floats, int] | None:
        """The values of a column, and how many of the parts, from the first on, they are of.

        Args:
            column: the name.
            parts: the parts that there are now.
            rows: how many rows they have.
        """
        path = self._path(column)
        try:
            if path.stat().st_size > 8 * rows + _LONGEST_HEAD:
                return None
            data = read_regular(path)
            length = _LINE * int.from_bytes(data[:4], "little")
            head = msgspec.json.decode(data[4:length].rstrip(b"\0"), type=_Head)
            known = _stamps(parts[: len(head.parts)])
        except (OSError, ValueError, RecursionError):
            return None
        if (head.version, head.column, head.parts) != (1, column, known):
            return None
        if len(data) != length + 8 * head.rows or zlib.crc32(data[length:]) != head.checksum:
            return None
        return np.frombuffer(data, np.float64, head.rows, length), len(known)

    def save(self, column: str, parts: Sequence[Path], values: Floats) -> None:
        """Keep the values of a column, if there is room and the folder may be written."""
        data = np.ascontiguousarray(values).data.cast("B")
        with contextlib.suppress(OSError):
            if not is_inside(self._folder, self._run):
                return  # a run may come from anybody, with a link to a folder of somebody else
            head = msgspec.json.encode(
                _Head(1, column, _stamps(parts), len(values), zlib.crc32(data))
            )
            lines = -(-(4 + len(head)) // _LINE)
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._path(column)
            # no fsync: after a crash of the machine the checksum finds what is missing
            aside = path.with_suffix(f".{os.getpid()}.tmp")
            try:
                with open(aside, "wb") as file:
                    file.write((lines.to_bytes(4, "little") + head).ljust(lines * _LINE, b"\0"))
                    file.write(data)
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)

    def _path(self, column: str) -> Path:
        name = hashlib.blake2b(column.encode(errors="surrogatepass"), digest_size=12).hexdigest()
        return self._folder / f"{name}.f8"


def _stamps(parts: Sequence[Path]) -> list[Stamp]:
    found = [(part.name, part.stat()) for part in parts]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
