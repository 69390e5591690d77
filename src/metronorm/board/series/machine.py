"""The samples of the machine as lines over time; what only grows becomes its rate per second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metronorm.board.series._arrays import missing
from metronorm.board.series.recorded import Piece, Rows
from metronorm.board.series.tapes import Tape
from metronorm.errors import ConfigError
from metronorm.runs.following.recent import COUNTED
from metronorm.store.run_directory import folder_number, tape_folders

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.board.series._arrays import Floats


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
    def names(self) -> list[str]:
        """The names of the values."""
        found = [name for _, tape in sorted(self._tapes.items()) for name in tape.names]
        return list(dict.fromkeys(found))

    @property
    def rows(self) -> Rows:
        """All samples, in the order of their attempts."""
        return Rows([Piece(tape, 0, None) for _, tape in sorted(self._tapes.items())])

    def positions(self, axis: str, begin_ns: int) -> Floats:
        """Where each sample stands on the axis `time`, in ms since 1970, or `elapsed`, in ns.

        Raises:
            ConfigError: it is another axis.
        """
        if axis not in ("time", "elapsed"):
            raise ConfigError("resources stand on the axis time or elapsed", got=repr(axis))
        time = self.rows.base("time_ns")
        ascending = np.maximum.accumulate(time) if len(time) else time
        return ascending / 1e6 if axis == "time" else (ascending - begin_ns).astype(float)

    def column(self, name: str) -> Floats:
        """A value, or its rate per second if it only grows; `missing` where there is none."""
        if not is_rate(name):
            return self.rows.column(name)
        found = [_rate(tape.column(name), tape) for _, tape in sorted(self._tapes.items())]
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
