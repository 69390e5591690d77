"""The lines of a tape that are not sealed yet: every whole line, even between damaged ones."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import RunError
from metronorm.files import open_regular
from metronorm.store.parquet_parts import has_parquet_magic
from metronorm.store.ring import read_ring, ring_path
from metronorm.store.run_directory import folder_number, paths_in
from metronorm.store.schema import LINE_TYPES
from metronorm.store.tape import LIVE, encode, is_written, next_part

if TYPE_CHECKING:
    from pathlib import Path


class _Decoder:
    """Makes records of lines of one type."""

    def __init__(self, record_type: Any) -> None:
        self._decode = msgspec.json.Decoder(record_type).decode

    def decode(self, line: bytes) -> Any:
        """The record of a line; MsgspecError for a line that is none."""
        try:
            return self._decode(line)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None


DECODERS = {kind: _Decoder(record_type) for kind, record_type in LINE_TYPES.items()}


@dataclass
class Lines:
    """The lines of one or more files.

    `whole` are records, as the clock writes them, each with its newline. `damaged` are lines that
    are no records, without their newlines. `torn` is the end of the last file, if it has no
    newline: a process was killed while it wrote. `notices` are sentences about lines that could
    not be read.
    """

    whole: list[bytes] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    torn: bytes = b""
    notices: list[str] = field(default_factory=list)

    def add(self, data: bytes, kind: str) -> None:
        """Add the content of a file with lines of a kind."""
        decode = DECODERS[kind].decode
        if self.torn:
            self.damaged.append(self.torn)
        *lines, last = data.split(b"\n")
        for line in lines:
            if not line:
                continue
            try:
                self.whole.append(encode(decode(line)))
            except (msgspec.MsgspecError, OverflowError):
                self.damaged.append(line)
        self.torn = last


def unsealed_files(folder: Path) -> list[Path]:
    """The files of a tape with lines that are in no Parquet part, oldest first."""
    parts = [path for path in sorted(folder.glob("_part-*.jsonl")) if not is_sealed(path)]
    # (opening a named pipe would wait)
    return [path for path in (*parts, folder / LIVE) if path.is_file()]


def _readable(path: Path) -> int:
    try:
        return open_regular(path)
    except PermissionError as error:
        raise RunError("a run's files must be readable", got=f"{path}: {error.strerror}") from None


def sealed_as(path: Path) -> Path:
    """The path of the Parquet part of a stretch: `part-00007.parquet` for `_part-00007.jsonl`."""
    return path.with_name(path.name.removeprefix("_")).with_suffix(".parquet")


def is_sealed(path: Path) -> bool:
    """Whether the lines of a stretch are read from its Parquet part."""
    return has_parquet_magic(sealed_as(path))


def read_tape(folder: Path, kind: str, identity: str) -> tuple[list[Path], Lines]:
    """The Parquet parts of a tape, and all lines that are in none of them, each once.

    Lines in the tape's ring are included. The result is of one instant, even if the tape is written
    and sealed meanwhile.

    Args:
        folder: the folder of the tape.
        kind: the kind of its lines.
        identity: the `id` of the run.

    Raises:
        RunError: a file may not be read.
    """
    found = Lines()
    path = tape_ring(folder, kind, identity)
    while True:
        # A stretch may be finished or sealed while its files are opened. If the numbers of the
        # parts are the same before and after, none was; else all is read again.
        state = next_part(folder), sealed_parts(folder)
        # the ring is read first: a line that leaves it meanwhile is on the tape then
        ring = read_ring(path, folder)
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
            files = [
                stack.enter_context(open(_readable(path), "rb")) for path in unsealed_files(folder)
            ]
            if state == (next_part(folder), sealed_parts(folder)):
                for file in files:
                    found.add(file.read(), kind)
                break
    if ring is None and not is_written(folder):
        found.notices.append(
            f"{folder}: lines that a killed process of another user had not written may be in "
            f"{path}, which may not be read; metronorm seal, run by that user, writes them"
        )
    if ring:
        in_ring = Lines()
        in_ring.add(ring, kind)
        on_tape = set(found.whole)
        only_in_ring = [line for line in in_ring.whole if line not in on_tape]
        found.whole += only_in_ring
        if only_in_ring:  # the whole of the torn line is one of them
            found.torn = b""
    return state[1], found


def sealed_parts(folder: Path) -> list[Path]:
    """The Parquet parts of a tape, oldest first.

    Raises:
        RunError: the folder may not be read.
    """
    return sorted(
        path
        for path in paths_in(folder)
        if path.name.startswith("part-") and path.suffix == ".parquet"
    )


def tape_ring(folder: Path, kind: str, identity: str) -> Path:
    """The path of the ring of the tape in a folder."""
    return ring_path(identity, kind, folder_number(folder.parent), folder_number(folder))
