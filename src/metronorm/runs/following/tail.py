"""The end of a tape while it is written. A look reads only what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.store.ring import read_ring
from metronorm.store.tape import LIVE, next_part
from metronorm.store.unsealed_lines import DECODERS, tape_ring

if TYPE_CHECKING:
    from pathlib import Path


class Tail:
    """Follows a tape from its present end, or from its beginning.

    Args:
        folder: the folder of the tape.
        kind: `ticks`, `events` or `resources`.
        identity: the identity of the run.
        from_beginning: the first look returns all records, or None if a stretch is sealed already.
    """

    def __init__(
        self, folder: Path, kind: str, identity: str, *, from_beginning: bool = False
    ) -> None:
        self._folder = folder
        self._decode = DECODERS[kind].decode
        self._ring = tape_ring(folder, kind, identity)
        self._known: set[bytes] = set()  # lines that were returned and may be met again
        self._part = self._offset = 0
        while not from_beginning:
            self._part = next_part(folder)
            self._offset = _size(folder / LIVE)
            if self._part == next_part(folder):
                break  # otherwise the size is of another stretch

    def read(self) -> list[Any] | None:
        """Read the records since the last look.

        The first look may return records that were there before: those that were still in the ring.

        Returns:
            The records; None if a stretch was sealed in between, so that records are missing.
        """
        # the ring first: a line that leaves it goes onto the tape
        late = read_ring(self._ring, self._folder) or b""
        data = self._new_bytes()
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

    def _new_bytes(self) -> bytes | None:
        """Whole lines that were written since the last look; None as for `read`."""
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
            return ended  # the bytes may be of either stretch
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
