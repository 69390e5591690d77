"""The lines of a tape that are not sealed yet: all that are whole, whatever lies between them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import RunError
from metronorm.files import open_regular
from metronorm.store.parquet_parts import looks_whole
from metronorm.store.ring import read_ring, ring_path
from metronorm.store.run_directory import listed, number
from metronorm.store.schema import LINES
from metronorm.store.tape import LIVE, encode, is_written, next_part

if TYPE_CHECKING:
    from pathlib import Path


class _Decoder:
    """Makes a record of a line; MsgspecError for whatever is none."""

    def __init__(self, form: Any) -> None:
        self._decode = msgspec.json.Decoder(form).decode

    def decode(self, line: bytes) -> Any:
        try:
            return self._decode(line)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None


DECODERS = {kind: _Decoder(form) for kind, form in LINES.items()}


@dataclass
class Lines:
    """What one or more files hold.

    `whole` are records, as the clock would write them, each with its newline; `damaged` are no
    records, without it; a `torn` one at the end of the last file was cut short, as a kill in the
    middle of writing leaves it. `notices` say what could not be read at all.
    """

    whole: list[bytes] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    torn: bytes = b""
    notices: list[str] = field(default_factory=list)

    def add(self, data: bytes, kind: str) -> None:
        """Take the content of a file."""
        decode = DECODERS[kind].decode
        if self.torn:
            self.damaged.append(self.torn)
        *lines, rest = data.split(b"\n")
        for line in lines:
            if not line:
                continue
            try:
                self.whole.append(encode(decode(line)))
            except (msgspec.MsgspecError, OverflowError):
                self.damaged.append(line)
        self.torn = rest


def unsealed_files(folder: Path) -> list[Path]:
    """The files of a tape, oldest first, whose lines are in no Parquet part."""
    parts = [path for path in sorted(folder.glob("_part-*.jsonl")) if not is_sealed(path)]
    # (no pipe, which would be waited for)
    return [path for path in (*parts, folder / LIVE) if path.is_file()]


def _readable(path: Path) -> int:
    try:
        return open_regular(path)
    except PermissionError as error:
        raise RunError("a run's files must be readable", got=f"{path}: {error.strerror}") from None


def sealed_as(path: Path) -> Path:
    """`part-00007.parquet` for `_part-00007.jsonl`."""
    return path.with_name(path.name.removeprefix("_")).with_suffix(".parquet")


def is_sealed(path: Path) -> bool:
    """Whether what `_part-00007.jsonl` holds is read from a Parquet part."""
    return looks_whole(sealed_as(path))


def read_tape(folder: Path, kind: str, identity: str) -> tuple[list[Path], Lines]:
    """The Parquet parts of a tape, and every line that is in none of them, each once.

    Those in its ring too. All are of one instant, whatever is written and sealed meanwhile.

    Raises:
        RunError: a file may not be read.
    """
    found = Lines()
    path = tape_ring(folder, kind, identity)
    while True:
        state = next_part(folder), sealed_parts(folder)
        # first: what leaves it goes onto the tape
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
            f"{folder}: what another user's process had not written when it was killed may be in "
            f"{path}, which may not be read; metronorm seal, run by that user, writes it"
        )
    if ring:
        late = Lines()
        late.add(ring, kind)
        there = set(found.whole)
        fresh = [line for line in late.whole if line not in there]
        found.whole += fresh
        if fresh:  # the line that is torn is in the ring
            found.torn = b""
    return state[1], found


def sealed_parts(folder: Path) -> list[Path]:
    """The Parquet parts of a tape, oldest first.

    Raises:
        RunError: the folder may not be read.
    """
    return sorted(
        path
        for path in listed(folder)
        if path.name.startswith("part-") and path.suffix == ".parquet"
    )


def tape_ring(folder: Path, kind: str, identity: str) -> Path:
    """Where the ring of the tape in this folder lies."""
    return ring_path(identity, kind, number(folder.parent), number(folder))
