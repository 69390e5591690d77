"""What is made of the columns of a run and kept until they change: axes, tracks, smoothed lines.

Each is extended where rows were added at the end, and made anew where rows before that changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metronorm.board.series.axes import begin_ns, positions, unit_of
from metronorm.board.series.recorded import Rows
from metronorm.board.series.smoothing import Smoothed
from metronorm.board.series.tracks import Track
from metronorm.store.schema import FIXED

if TYPE_CHECKING:
    from metronorm.board.series._arrays import Floats
    from metronorm.board.series.axes import Axis
    from metronorm.board.series.recorded import Recorded

_MOST_TRACKS, _MOST_SMOOTHED = 256, 64  # the one that was not used for longest goes first


class Kept:
    """The axes, tracks and smoothed lines of a run."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._axes: dict[tuple[Axis, int], tuple[object, Floats]] = {}
        self._tracks: dict[tuple[object, ...], tuple[object, Track]] = {}
        self._smoothed: dict[tuple[object, ...], tuple[Track, Smoothed]] = {}

    @property
    def nbytes(self) -> int:
        """About how many bytes they take."""
        found = sum(axis.nbytes for _, axis in self._axes.values())
        found += sum(track.nbytes for _, track in self._tracks.values())
        return found + sum(smoothed.nbytes for _, smoothed in self._smoothed.values())

    @property
    def unit(self) -> str | None:
        """What the axis `tokens` counts; None: nothing known."""
        return unit_of([name for name in self._recorded.names if name not in FIXED["ticks"]])

    def axis(self, x: Axis, rank: int) -> Floats:
        """Where each row of the history of a rank stands.

        Raises:
            ConfigError: there is no such axis, or the run counts nothing.
        """
        unit = self.unit if x == "tokens" else None
        others = [other for other in self._recorded.ranks if other != rank and x == "tokens"]
        self._recorded.want(rank, *others)
        rows, *histories = (Rows(self._recorded.history(one)) for one in (rank, *others))
        columns = ("tick", unit) if unit else ("tick", "time_ns", "wall_ns")
        version = [(len(own), *map(own.version, columns)) for own in (rows, *histories)]
        known = self._axes.get((x, rank))
        if known is None or known[0] != version:
            known = self._axes[x, rank] = version, positions(x, rows, histories, unit)
        return known[1]

    def ghost_axis(self, x: Axis, ghost: Rows, rank: int) -> Floats:
        """The same for ticks that were left behind: sums go on from where this happened."""
        place = positions(x, ghost, (), self.unit if x == "tokens" else None)
        rows = Rows(self._recorded.history(rank))
        if x in ("tokens", "training"):
            before = int(np.searchsorted(rows.base("tick"), ghost.base("tick")[0]))
            place += self.axis(x, rank)[before - 1] if before else 0.0
        elif x == "elapsed":
            place += begin_ns(ghost) - begin_ns(rows)
        return place

    def track(self, name: str, rows: Rows, *, positive: bool = False) -> Track:
        """The track of a column; `positive` as of `Track`."""
        key, version = (name, positive, *rows.place), rows.version(name)
        known, track = self._tracks.pop(key, (None, Track()))
        if known != version:
            track = Track(positive=positive)
        track.extend(rows.column(name))
        self._tracks[key] = version, track
        if len(self._tracks) > _MOST_TRACKS:
            self._tracks.pop(next(iter(self._tracks)))
        return track

    def let_go(self, name: str) -> None:
        """Keep nothing of a column."""
        for kept in (self._tracks, self._smoothed):
            for key in [key for key in kept if str(key[0]).lower() == name.lower()]:
                del kept[key]

    def smoothed(self, name: str, rows: Rows, weight: float) -> Smoothed:
        """The finite values of a track after smoothing."""
        key, track = (name, weight, *rows.place), self.track(name, rows)
        source, smoothed = self._smoothed.pop(key, (None, Smoothed(weight)))
        if source is not track:
            smoothed = Smoothed(weight)
        smoothed.extend(track.finite)
        self._smoothed[key] = track, smoothed
        if len(self._smoothed) > _MOST_SMOOTHED:
            self._smoothed.pop(next(iter(self._smoothed)))
        return smoothed
