"""The end of a tape while it is written: each look costs what is new, not what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.store.ring import read_ring
from metronorm.store.tape import LIVE, next_part
from metronorm.store.unsealed_lines import DECODERS, tape_ring

if TYPE_CHECKING:
    from pathlib import Path


class Tail:
    """Follows a tape from where it ends now.

    Args:
        folder: of the tape.
        kind: `ticks`, `events` or `resources`.
        identity: of the run.
    """

    def __init__(self, folder: Path, kind: str, identity: str) -> None:
        self._folder = folder
        self._decode = DECODERS[kind].decode
        self._ring = tape_ring(folder, kind, identity)
        self._known: set[bytes] = set()  # lines that were given and may be met once more
        while True:
            self._part = next_part(folder)
            self._offset = _size(folder / LIVE)
            if self._part == next_part(folder):
                break  # else that was the size of another stretch

    def read(self) -> list[Any] | None:
        """The records since the last look; None where the thread is lost.

        That is when a stretch was finished and sealed in between. The first look may give records
        that were there before: those still on their way to the tape.
        """
        # first: what leaves it goes onto the tape
        late = read_ring(self._ring, self._folder) or b""
        data = self._rest()
        if data is None:
            return None
        lines = data.split(b"\n")
        there = set(lines)
        on_the_way = [line for line in late.split(b"\n") if line not in there]
        records = []
        for line in (*lines, *on_the_way):
            if line and line not in self._known:
                try:
                    records.append(self._decode(line))
                except msgspec.MsgspecError:
                    continue
        self._known = there.union(on_the_way)
        return records

    def _rest(self) -> bytes | None:
        part = next_part(self._folder)
        ended = b""
        if part != self._part:
            path = self._folder / f"_part-{self._part:05}.jsonl"
            if part != self._part + 1 or not path.exists():
                return None
            ended = _from(path, self._offset) + b"\n"
            self._part, self._offset = part, 0
        path = self._folder / LIVE
        if _size(path) < self._offset:
            return None
        live = _from(path, self._offset)
        if part != next_part(self._folder):
            return ended  # who knows of which stretch the rest is
        live = live[: live.rfind(b"\n") + 1]
        self._offset += len(live)
        return ended + live


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _from(path: Path, offset: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""
