"""The lines of a tape that are not sealed yet: all that are whole, whatever lies between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.clock.record import TickRecord
from metronorm.clock.ring import read_ring, ring_path
from metronorm.clock.run import number
from metronorm.clock.tape import LIVE

if TYPE_CHECKING:
    from pathlib import Path


class _Event(msgspec.Struct):
    event: str
    tick: int
    time_ns: int
    fields: dict[str, Any]


class _Sample(msgspec.Struct):
    tick: int
    time_ns: int
    values: dict[str, float]


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "ticks": msgspec.json.Decoder(TickRecord),
    "events": msgspec.json.Decoder(_Event),
    "resources": msgspec.json.Decoder(_Sample),
}


@dataclass
class Lines:
    """What one or more files hold.

    `whole` are records, each with its newline; `damaged` are no records, without it; a `torn` one
    at the end of a file was cut short, as a kill in the middle of writing leaves it.
    """

    whole: list[bytes] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    torn: bytes = b""

    def add(self, data: bytes, kind: str) -> None:
        """Take the content of a file."""
        decode = _DECODERS[kind].decode
        *lines, rest = data.split(b"\n")
        for line in lines:
            if not line:
                continue
            try:
                decode(line)
            except msgspec.MsgspecError:
                self.damaged.append(line)
            else:
                self.whole.append(line + b"\n")
        self.torn = rest


def unsealed_files(folder: Path) -> list[Path]:
    """The files of a tape, oldest first, whose lines are in no Parquet part."""
    parts = [path for path in sorted(folder.glob("_part-*.jsonl")) if not sealed_as(path).exists()]
    live = folder / LIVE
    return [*parts, live] if live.exists() else parts


def sealed_as(path: Path) -> Path:
    """`part-00007.parquet` for `_part-00007.jsonl`."""
    return path.with_name(path.name.removeprefix("_")).with_suffix(".parquet")


def read_lines(folder: Path, kind: str, identity: str) -> Lines:
    """Every line of a tape that is not sealed, those in its ring too, each once."""
    ring = read_ring(tape_ring(folder, kind, identity), folder)  # first: what leaves it goes there
    found = Lines()
    for path in unsealed_files(folder):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # sealed just now
            continue
        found.add(data, kind)
    if ring:
        late = Lines()
        late.add(ring, kind)
        there = set(found.whole)
        fresh = [line for line in late.whole if line not in there]
        found.whole += fresh
        if fresh:  # the line that is torn is in the ring
            found.torn = b""
    return found


def tape_ring(folder: Path, kind: str, identity: str) -> Path:
    """Where the ring of the tape in this folder lies."""
    return ring_path(identity, kind, number(folder.parent), number(folder))
