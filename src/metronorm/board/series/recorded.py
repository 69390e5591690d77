"""All tapes of ticks of a run, and which of their rows are its history.

| rows | |
| --- | --- |
| effective | of each tick those of the newest attempt: what led to the final parameters |
| ghosts | ticks that a later attempt has left behind, by doing them again or by branching off |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metronorm.board.series._arrays import joined
from metronorm.board.series.ahead import Ahead
from metronorm.board.series.recorded_events import EventTape
from metronorm.board.series.tapes import BASES, Tape
from metronorm.runs.amendments import amendment
from metronorm.runs.history import beginnings, left_behind
from metronorm.store.run_directory import folder_number, read_run_info, tape_folders

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metronorm.board.series._arrays import Floats, Integers
    from metronorm.runs.events import Event
    from metronorm.runs.history import LeftBehind
    from metronorm.store.schema import StoredTick


class Piece(NamedTuple):
    """The rows of a tape from `first` on and before `end`; without an end, it grows."""

    tape: Tape
    first: int
    end: int | None


class Ghost(NamedTuple):
    """Ticks that a later attempt has left behind."""

    piece: Piece
    left: LeftBehind


class Recorded:
    """The tapes of a run; `refresh` reads what is new.

    Of many ranks only those are read that somebody has asked for, by `want`. `generation` changes
    when rows that were there are no longer what they were.

    Args:
        directory: the directory of the run.
        cache: whether columns of many rows are kept there.
        ahead: what was read already.

    Raises:
        RunError: there is no run, or it has a newer schema.
    """

    def __init__(self, directory: Path, *, cache: bool, ahead: Ahead | None = None) -> None:
        self.directory, self._cache = directory, cache
        self.generation = 0
        self.info = read_run_info(directory)
        self._ahead = ahead if ahead and ahead.run == self.info.id else Ahead("", {}, {})
        self._wanted: set[int] = set()
        self._forget()

    def _forget(self) -> None:
        self.tapes: dict[tuple[int, int], Tape] = {}
        self._events: dict[Path, EventTape] = {}
        self._beginnings: list[Event] = []
        self._left: list[LeftBehind] = []
        self._between: dict[tuple[int, int], list[StoredTick]] = {}  # of tapes to be read
        self.ranks: list[int] = []  # that have a tape in any attempt
        self._firsts: list[tuple[int, int]] = []  # of each attempt: its first tick

    def refresh(self) -> None:
        """Read what is new.

        Raises:
            RunError: the run is gone, or a file may not be read.
        """
        info = read_run_info(self.directory)
        if info.id != self.info.id:
            self._forget()
            self.generation += 1
        self.info = info
        begun, known = self._read_events(), set(self.tapes)
        folders = tape_folders(self.directory, "ticks")
        self.ranks = sorted(set(map(folder_number, folders)))
        for folder in folders:
            place = folder_number(folder.parent), folder_number(folder)
            if place not in self.tapes and place[1] in self._wanted.union(self.ranks[:1]):
                self.tapes[place] = Tape(
                    folder, info.id, cache=self._cache, ahead=self._ahead.ticks
                )
        for place, tape in self.tapes.items():
            tape.refresh()
            for later in self._between.pop(place, ()):
                tape.amend(later)
        self._ahead = Ahead("", {}, {})  # tapes to come are not in it
        firsts = self._first_ticks()
        if begun or known != set(self.tapes) or firsts != self._firsts:
            self._firsts = firsts
            self._left = left_behind(beginnings(firsts, self._beginnings))

    def _first_ticks(self) -> list[tuple[int, int]]:
        firsts: dict[int, int] = {}
        for (attempt, _), tape in self.tapes.items():
            if len(tape):
                first = int(tape.base("tick")[0])
                firsts[attempt] = min(firsts.get(attempt, first), first)
        return sorted(firsts.items())

    def _read_events(self) -> bool:
        """Whether one of the new events says where an attempt begins."""
        begun = False
        for folder in tape_folders(self.directory, "events"):
            if folder not in self._events:
                self._events[folder] = EventTape(folder, self.info.id, self._ahead.events)
            tape = self._events[folder]
            for event in tape.read():
                if event.name != "between":
                    self._beginnings.append(event)
                    begun = True
                elif (found := amendment(event)) is not None:
                    place = event.attempt, event.rank
                    self._between.setdefault(place, []).append(found)
        return begun

    def want(self, *ranks: int) -> None:
        """Read these ranks, too.

        Raises:
            RunError: as of `refresh`.
        """
        known = self._wanted.union(self.ranks[:1])
        self._wanted.update(ranks)
        if not known.issuperset(ranks):
            self.refresh()

    @property
    def names(self) -> list[str]:
        """The names of all columns but the base columns, in the order of their first appearance."""
        found: dict[str, str] = {}
        for _, tape in sorted(self.tapes.items()):
            for name in tape.names:
                found.setdefault(name.lower(), name)
        return list(found.values())

    @property
    def ends(self) -> dict[int, int]:
        """The first tick of each attempt that a later attempt has left behind."""
        found: dict[int, int] = {}
        for left in self._left:
            found[left.attempt] = min(found.get(left.attempt, left.first), left.first)
        return found

    @property
    def firsts(self) -> dict[int, int]:
        """The first tick of each attempt that has any."""
        return dict(self._firsts)

    def history(self, rank: int) -> list[Piece]:
        """The effective history of a rank, in the order of the ticks."""
        found, ends = [], self.ends
        for (attempt, own), tape in sorted(self.tapes.items()):
            if own == rank:
                end = ends.get(attempt)
                rows = None if end is None else int(np.searchsorted(tape.base("tick"), end))
                found.append(Piece(tape, 0, rows))
        return found

    def ghosts(self, rank: int) -> list[Ghost]:
        """The ticks of a rank that were left behind, in the order of their attempts."""
        found = []
        for left in self._left:
            tape = self.tapes.get((left.attempt, rank))
            if tape is not None:
                limits = [left.first, 2**63 - 1 if left.end is None else left.end]
                first, end = map(int, np.searchsorted(tape.base("tick"), limits))
                if first < end:
                    found.append(Ghost(Piece(tape, first, end), left))
        return found


class Rows:
    """The rows of some pieces, one after another; only the last one with any rows grows.

    Args:
        pieces: the pieces.
    """

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.base("time_ns"))

    def base(self, name: str) -> Integers:
        """One of the columns `tick`, `time_ns` and `wall_ns`."""
        return joined([tape.base(name)[first:end] for tape, first, end in self.pieces], np.int64)

    def load(self, names: Sequence[str]) -> None:
        """Read some columns at once."""
        for tape, _, _ in self.pieces:
            tape.load([name for name in names if name not in BASES["ticks"]])

    def column(self, name: str) -> Floats:
        """Any column by its name, `missing` where a row has no value."""
        if name in BASES["ticks"]:
            return self.base(name).astype(np.float64)
        return joined([tape.column(name)[first:end] for tape, first, end in self.pieces])

    @property
    def place(self) -> tuple[tuple[int, int, int], ...]:
        """What names these rows, also when more are added: attempt, rank and first row of each."""
        return tuple((tape.attempt, tape.rank, first) for tape, first, _ in self.pieces)

    def version(self, name: str) -> tuple[object, ...]:
        """Is the same as before if the values of a column that were there before are the same."""
        return tuple(
            (tape, tape.generation, tape.changes.get(name, 0), first, end)
            for tape, first, end in self.pieces
        )
