"""The samples of the machine as lines over time; what only grows becomes its rate per second."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metronorm.board.series._arrays import missing
from metronorm.board.series.recorded import Piece, Rows
from metronorm.board.series.tapes import Tape
from metronorm.runs.following.recent import COUNTED
from metronorm.store.run_directory import folder_number, tape_folders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from metronorm.board.series._arrays import Floats, Integers


class Places(NamedTuple):
    """Where some of the samples stand on an axis, and which these are."""

    x: Floats
    which: Integers


class Machine:
    """The tapes of resources of one rank, of all attempts.

    Args:
        directory: the directory of the run.
        rank: the rank.
    """

    def __init__(self, directory: Path, rank: int) -> None:
        self._directory, self._rank = directory, rank
        self._tapes: dict[int, Tape] = {}

    def refresh(self, identity: str) -> None:
        """Read what is new.

        Args:
            identity: the `id` of the run.

        Raises:
            RunError: a file may not be read.
        """
        for folder in tape_folders(self._directory, "resources"):
            attempt = folder_number(folder.parent)
            if folder_number(folder) == self._rank and attempt not in self._tapes:
                self._tapes[attempt] = Tape(folder, identity, "resources")
        for tape in self._tapes.values():
            tape.refresh()

    @property
    def tapes(self) -> list[Tape]:
        """The tapes, in the order of their attempts."""
        return [tape for _, tape in sorted(self._tapes.items())]

    @property
    def names(self) -> list[str]:
        """The names of the values."""
        found = [name for tape in self.tapes for name in tape.names]
        return list(dict.fromkeys(found))

    def times(self, axis: str, begin_ns: int) -> Places:
        """All samples on the axis `time`, in ms since 1970, or `elapsed`, in ns since the begin."""
        rows = self._rows
        time = rows.base("time_ns")
        ascending = np.maximum.accumulate(time) if len(time) else time
        x = ascending / 1e6 if axis == "time" else (ascending - begin_ns).astype(float)
        return Places(x, np.arange(len(x)))

    def ticks(self, ends: Mapping[int, int], ticks: Integers, axis: Floats) -> Places:
        """The samples beside the ticks of a history, on an axis of these.

        Args:
            ends: of each attempt: the first of its ticks that was left behind, if any was.
            ticks: the history.
            axis: where each of its ticks stands.
        """
        tick = self._rows.base("tick")
        kept = np.concatenate(
            [np.zeros(0, bool)]
            + [
                tape.base("tick") < ends.get(tape.attempt, np.iinfo(np.int64).max)
                for tape in self.tapes
            ]
        )
        # before the end of the first tick there is no place for a sample
        row = np.searchsorted(ticks, tick, "right") - 1
        (which,) = np.nonzero(kept & (row >= 0))
        return Places(np.maximum.accumulate(axis[row[which]]) if len(which) else axis[:0], which)

    @property
    def _rows(self) -> Rows:
        return Rows([Piece(tape, 0, None) for tape in self.tapes])

    def column(self, name: str) -> Floats:
        """A value, or its rate per second if it only grows; `missing` where there is none."""
        if not is_rate(name):
            return self._rows.column(name)
        found = [_rate(tape.column(name), tape) for tape in self.tapes]
        return np.concatenate([np.empty(0), *found])


def is_rate(name: str) -> bool:
    """Whether a value only grows, so that its rate is shown."""
    return name.endswith(COUNTED)


def _rate(values: Floats, tape: Tape) -> Floats:
    """The growth per second since the sample before; a value that shrinks begins anew."""
    found = missing(len(values))
    there = np.flatnonzero(np.isfinite(values))
    time = tape.base("time_ns")[there]
    growth, seconds = np.diff(values[there]), np.diff(time) / 1e9
    good = (growth >= 0) & (seconds > 0)
    found[there[1:][good]] = growth[good] / seconds[good]
    return found
