"""The series of one run, for the charts of a board."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metronorm.board.series.axes import begin_ns, positions, unit_of
from metronorm.board.series.buckets import reduce_live
from metronorm.board.series.pixels import View
from metronorm.board.series.recorded import Recorded, Rows
from metronorm.board.series.reduced import Reduced
from metronorm.board.series.reducing import add_marks, reduce_line
from metronorm.board.series.smoothing import Smoothed
from metronorm.board.series.tracks import Track
from metronorm.errors import ConfigError
from metronorm.store.schema import FIXED

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from metronorm.board.series._arrays import Floats
    from metronorm.board.series.axes import Axis
    from metronorm.board.series.recorded import Ghost
    from metronorm.board.series.reducing import Line
    from metronorm.board.series.tracks import Points
    from metronorm.runs.history import LeftBehind

_MOST_TRACKS = 256  # that are kept; the one that was not used for longest goes first


class RunSeries:
    """The columns of a run, read when somebody asks for them, and reduced to the pixels of a view.

    Every method may be called from any thread; calls for one run wait for each other.

    Args:
        directory: the directory of the run.

    Raises:
        RunError: there is no run, or it has a newer schema.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._lock = threading.RLock()
        self._recorded = Recorded(Path(directory).absolute())
        self._tracks: dict[tuple[object, ...], tuple[tuple[object, ...], Track]] = {}
        self._smoothed: dict[tuple[object, ...], tuple[Track, Smoothed]] = {}
        self._axes: dict[tuple[object, ...], tuple[object, Floats]] = {}
        self._read = False

    def refresh(self) -> str:
        """Read what is new; return the cursor.

        Raises:
            RunError: the run is gone, or a file may not be read.
        """
        with self._lock:
            self._recorded.refresh()
            self._read = True
            return self.cursor

    @property
    def cursor(self) -> str:
        """Is the same as before if nothing was read that changes an answer."""
        with self._lock:
            tapes = self._recorded.tapes.values()
            rows = sum(map(len, tapes))
            changes = sum(sum(tape.changes.values()) for tape in tapes)
            generation = self._recorded.generation + sum(tape.generation for tape in tapes)
            return f"{self._recorded.info.id}.{generation}.{rows}.{changes}"

    def names(self) -> list[str]:
        """The names of the metrics."""
        return [name for name in self._names() if not name.endswith("_ns")]

    def phases(self) -> list[str]:
        """The names of the phases."""
        return [name.removesuffix("_ns") for name in self._names() if name.endswith("_ns")]

    def _names(self) -> list[str]:
        with self._lock:
            self._begin()
            return [name for name in self._recorded.names if name not in FIXED["ticks"]]

    @property
    def ranks(self) -> list[int]:
        """The ranks that have recorded anything."""
        with self._lock:
            self._begin()
            return self._recorded.ranks

    def notices(self) -> list[str]:
        """One sentence for each Parquet part that could not be read and was left out."""
        with self._lock:
            return [notice for tape in self._recorded.tapes.values() for notice in tape.notices]

    def _begin(self) -> None:
        if not self._read:
            self.refresh()

    def reduce(
        self,
        names: Sequence[str],
        *,
        x: Axis = "tick",
        begin: float | None = None,
        end: float | None = None,
        width: float = 1000,
        left: float = 0,
        ratio: float = 1,
        smooth: float = 0.0,
        rank: int = 0,
        ghosts: bool = False,
        y: str = "linear",
        live: bool = False,
    ) -> Reduced:
        """What a chart draws of some metrics.

        Args:
            names: metrics, or columns of times such as `wall_ns` and `forward_ns`.
            x: the axis.
            begin: the value of the axis at the left edge of the plot; None: where the run begins.
            end: the value at its right edge; None: where the run ends.
            width: the width of the plot in device pixels.
            left: the distance of the plot from the left edge of the canvas in device pixels.
            ratio: device pixels in a CSS pixel.
            smooth: the weight of `Smoothed`; 0: as it was logged.
            rank: whose values.
            ghosts: also ticks that a later attempt has left behind, as lines of their own.
            y: the axis of the values; on "log", 0 and less are no points of the line.
            live: the view is about to change: x is right within a pixel, and does not wobble.

        Raises:
            ConfigError: a name or an argument is wrong.
            RunError: a file may not be read.
        """
        if not 0 <= smooth < 1:
            raise ConfigError("smoothing must be at least 0 and less than 1", got=f"{smooth:g}")
        with self._lock:
            self._begin()
            self._check(names)
            rows = Rows(self._recorded.history(rank))
            axis = self._axis(x, rows, rank)
            left_behind = self._recorded.ghosts(rank) if ghosts else []
            others = [(ghost, *self._ghost(ghost, x, rows, axis)) for ghost in left_behind]
            whole = [axis, *(place for _, _, place in others)]
            extent = _extent(whole)
            view = View(
                extent[0] if begin is None else begin,
                extent[1] if end is None else end,
                width,
                left,
                ratio,
            )
            found: list[tuple[str, LeftBehind | None, Line]] = []
            reduce = reduce_live if live else reduce_line
            places = [(None, rows, axis), *((ghost.left, own, at) for ghost, own, at in others)]
            for name in names:
                for left_by, own, place in places:
                    logged = self._track(name, own, positive=y == "log").points(place)
                    if smooth:  # over all finite values, whatever the axis can show
                        raw = self._track(name, own).points(place)
                        line = reduce(self._smooth(name, own, raw, smooth), view, raw=raw)
                    else:
                        line = reduce(logged, view)
                    add_marks(line, logged, view)
                    found.append((name, left_by, line))
            time = rows.base("time_ns")
            return Reduced.of(
                found,
                view,
                {
                    "x": x,
                    "rank": rank,
                    "unit": unit_of(self.names()) if x == "tokens" else None,
                    "begin_ns": begin_ns(rows),
                    "extent": extent,
                    "rows": len(rows),
                    "newest_ns": int(time[-1]) if len(time) else None,
                    "cursor": self.cursor,
                },
            )

    def _check(self, names: Sequence[str]) -> None:
        known = {name.lower() for name in self._recorded.names} | set(FIXED["ticks"])
        for name in names:
            if name.lower() not in known:
                raise ConfigError("a series must be a column of the run", got=repr(name))

    def _axis(self, x: Axis, rows: Rows, rank: int) -> Floats:
        unit = unit_of(self.names()) if x == "tokens" else None
        others = [other for other in self._recorded.ranks if other != rank and x == "tokens"]
        histories = [Rows(self._recorded.history(other)) for other in others]
        version = (
            [own.version(name) for own in (rows, *histories) for name in _needed(x, unit)],
            len(rows),
        )
        known = self._axes.get((x, rank))
        if known is None or known[0] != version:
            known = version, positions(x, rows, histories, unit)
            self._axes[x, rank] = known
        return known[1]

    def _ghost(self, ghost: Ghost, x: Axis, rows: Rows, axis: Floats) -> tuple[Rows, Floats]:
        """The rows of a ghost and where they stand: sums go on from where it was left behind."""
        own = Rows([ghost.piece])
        unit = unit_of(self.names()) if x == "tokens" else None
        place = positions(x, own, (), unit)
        if x in ("tokens", "training"):
            before = int(np.searchsorted(rows.base("tick"), own.base("tick")[0]))
            place += axis[before - 1] if before else 0.0
        elif x == "elapsed":
            place += begin_ns(own) - begin_ns(rows)
        return own, place

    def _track(self, name: str, rows: Rows, *, positive: bool = False) -> Track:
        key = (
            name,
            positive,
            *((tape.attempt, tape.rank, first) for tape, first, _ in rows.pieces),
        )
        version = rows.version(name)
        known, track = self._tracks.pop(key, ((), Track()))
        if known != version:
            track = Track(positive=positive)
        track.extend(rows.column(name))
        self._tracks[key] = version, track
        while len(self._tracks) > _MOST_TRACKS:
            self._tracks.pop(next(iter(self._tracks)))
        return track

    def _smooth(self, name: str, rows: Rows, raw: Points, weight: float) -> Points:
        track = self._track(name, rows)
        key = (name, weight, *((tape.attempt, tape.rank, first) for tape, first, _ in rows.pieces))
        source, smoothed = self._smoothed.pop(key, (None, Smoothed(weight)))
        if source is not track:
            smoothed = Smoothed(weight)
        smoothed.extend(raw.finite)
        self._smoothed[key] = track, smoothed
        while len(self._smoothed) > _MOST_TRACKS // 4:
            self._smoothed.pop(next(iter(self._smoothed)))
        return raw._replace(finite=smoothed.values, levels=smoothed.levels)


def _needed(x: Axis, unit: str | None) -> list[str]:
    """The columns that an axis is made of."""
    if x == "tokens" and unit:
        return ["tick", unit]
    return {"tick": ["tick"], "training": ["wall_ns"]}.get(x, ["time_ns", "wall_ns"])


def _extent(axes: Sequence[Floats]) -> tuple[float, float]:
    """Where the first and the last row of any of them stand, at least 1 apart."""
    some = [axis for axis in axes if len(axis)]
    begin = min((float(axis[0]) for axis in some), default=0.0)
    return begin, max([begin + 1, *(float(axis[-1]) for axis in some)])
