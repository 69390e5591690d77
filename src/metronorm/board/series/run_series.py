"""The series of one run, for the charts of a board."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.board.series.axes import begin_ns, positions, unit_of
from metronorm.board.series.buckets import reduce_live
from metronorm.board.series.machine import Machine, is_rate
from metronorm.board.series.overviews import (
    Buckets,
    buckets,
    layers,
    phase_times,
    ranks_query,
    tick_times,
)
from metronorm.board.series.pixels import MOST_PIXELS, View
from metronorm.board.series.recorded import Recorded, Rows
from metronorm.board.series.reduced import Column, Reduced
from metronorm.board.series.reducing import add_marks, reduce_line
from metronorm.board.series.smoothing import Smoothed
from metronorm.board.series.tracks import Track
from metronorm.errors import ConfigError
from metronorm.runs import open_run
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

BAR_PIXELS, CELL_PIXELS = 2, 4  # the width of a bar and of a cell of a heat map, at least
_MOST_TRACKS = 256  # that are kept; the one that was not used for longest goes first


class RunSeries:
    """The columns of a run, read when somebody asks for them, and reduced to the pixels of a view.

    Every method may be called from any thread; calls for one run wait for each other.

    Args:
        directory: the directory of the run.
        cache: keep columns of millions of rows in `RUN/board/levels/`, which may be deleted. A
            folder that may not be written works, too.

    Raises:
        RunError: there is no run, or it has a newer schema.
    """

    def __init__(self, directory: str | os.PathLike[str], *, cache: bool = True) -> None:
        self._lock = threading.RLock()
        self._recorded = Recorded(Path(directory).absolute(), cache=cache)
        self._tracks: dict[tuple[object, ...], tuple[tuple[object, ...], Track]] = {}
        self._smoothed: dict[tuple[object, ...], tuple[Track, Smoothed]] = {}
        self._axes: dict[tuple[object, ...], tuple[object, Floats]] = {}
        self._machines: dict[int, Machine] = {}
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

    @property
    def nbytes(self) -> int:
        """About how many bytes the columns and what was made of them take."""
        with self._lock:
            held = [*self._recorded.tapes.values()]
            held += [tape for machine in self._machines.values() for tape in machine.tapes]
            found = sum(tape.nbytes for tape in held)
            found += sum(track.nbytes for _, track in self._tracks.values())
            found += sum(smoothed.nbytes for _, smoothed in self._smoothed.values())
            return found + sum(axis.nbytes for _, axis in self._axes.values())

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
            names: metrics, or columns of times such as `wall_ns` and `forward_ns`; those that the
                run does not have are left out.
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
            ConfigError: an argument is wrong.
            RunError: a file may not be read.
        """
        _check_smoothing(smooth)
        with self._lock:
            self._begin()
            self._recorded.want(rank)
            rows = Rows(self._recorded.history(rank))
            names = self._known(names)
            rows.load(names)
            axis = self._axis(x, rows, rank)
            left_behind = self._recorded.ghosts(rank) if ghosts else []
            others = [(ghost, *self._ghost(ghost, x, rows, axis)) for ghost in left_behind]
            whole = [axis, *(place for _, _, place in others)]
            extent = _extent(whole)
            view = View(*_stretch(extent, begin, end), width, left, ratio)
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

    def _known(self, names: Sequence[str]) -> list[str]:
        known = {name.lower() for name in self._recorded.names} | set(FIXED["ticks"])
        return [name for name in names if name.lower() in known]

    # --- buckets of ticks: what the arguments and columns mean is in `overviews` ----------------

    def phase_times(
        self,
        *,
        begin: float | None = None,
        end: float | None = None,
        width: float = 1000,
        rank: int = 0,
    ) -> Reduced:
        """The mean time of each phase: columns `x`, `y` with the name of a phase, and `max`."""
        with self._lock:
            rows, cut, meta = self._buckets(begin, end, int(width / BAR_PIXELS), rank)
            return Reduced(phase_times(rows, self.phases(), cut), meta)

    def tick_times(
        self,
        *,
        begin: float | None = None,
        end: float | None = None,
        width: float = 1000,
        rank: int = 0,
    ) -> Reduced:
        """How many ticks took how long: columns `x`, `edges` and `count`."""
        with self._lock:
            rows, cut, meta = self._buckets(begin, end, int(width / CELL_PIXELS), rank)
            return Reduced(tick_times(rows, cut), meta)

    def rank_times(
        self,
        *,
        begin: float | None = None,
        end: float | None = None,
        width: float = 1000,
        value: str = "wall",
    ) -> Reduced:
        """The ranks beside each other: columns `x`, `rank` and `value[rank * buckets + bucket]`.

        Args:
            begin: the first tick.
            end: the last tick.
            width: device pixels.
            value: "wall": the mean tick time; "arrival": the mean time from the beginning of a tick
                until the rank enters the collective. NaN where nothing is known.

        Raises:
            ConfigError: it is another value.
        """
        if value not in ("wall", "arrival"):
            raise ConfigError("the value must be wall or arrival", got=repr(value))
        with self._lock:
            _, cut, meta = self._buckets(begin, end, int(width / CELL_PIXELS), 0)
            # of many ranks not all columns can be kept
            ticks = open_run(self._recorded.directory).ticks()
            ranks, column = self._recorded.ranks, f"{value}_ns"
            found = np.full((len(ranks), len(cut.begins)), np.nan)
            if column in ticks.columns and len(cut.begins):
                last = cut.begins[-1] + cut.size - 1
                query = ranks_query(column, cut.begins[0], cut.size, last)
                first = int(cut.begins[0]) // cut.size
                for rank, number, mean in ticks.only("rank", "tick", column).fetch(query):
                    if mean is not None:
                        found[ranks.index(rank), number - first] = mean
            columns = [Column("x", cut.begins), Column("rank", np.array(ranks, np.int32))]
            return Reduced([*columns, Column("value", found.ravel())], meta)

    def norms(
        self,
        stat: str | None = None,
        *,
        begin: float | None = None,
        end: float | None = None,
        width: float = 1000,
        rank: int = 0,
    ) -> Reduced:
        """A number of all layers, from metrics `norm.LAYER.NUMBER`: columns `x` and `value`.

        `meta.stats` are all such numbers, `meta.layers` the layers that have this one; without a
        number there is no `value`.
        """
        with self._lock:
            rows, cut, meta = self._buckets(begin, end, int(width / CELL_PIXELS), rank)
            parts = [name.split(".") for name in self.names() if name.startswith("norm.")]
            known = [(".".join(each[1:-1]), each[-1]) for each in parts if len(each) > 2]
            meta["stats"] = list(dict.fromkeys(number for _, number in known))
            meta["layers"] = [layer for layer, number in known if number == stat]
            if stat is None:
                return Reduced([Column("x", cut.begins)], meta)
            names = [f"norm.{layer}.{stat}" for layer in meta["layers"]]
            rows.load(names)
            axis = self._axis("tick", rows, rank)
            ticks = rows.base("tick")
            found = layers(lambda name: self._track(name, rows).points(axis), names, ticks, cut)
            return Reduced(found, meta)

    def _buckets(
        self, begin: float | None, end: float | None, most: int, rank: int
    ) -> tuple[Rows, Buckets, dict[str, Any]]:
        self._begin()
        self._recorded.want(rank)
        rows = Rows(self._recorded.history(rank))
        extent = _extent([self._axis("tick", rows, rank)])
        view = View(*_stretch(extent, begin, end), 1)
        cut = buckets(rows.base("tick"), view.begin, view.end, min(max(most, 1), MOST_PIXELS))
        meta = {"extent": extent, "width": cut.size, "rank": rank, "rows": len(rows)}
        return rows, cut, meta | {"begin": view.begin, "end": view.end, "cursor": self.cursor}

    # --- the machine ----------------------------------------------------------------------------

    def resource_names(self, rank: int = 0) -> list[str]:
        """The names of what was sampled of the machine."""
        with self._lock:
            return self._machine(rank).names

    def resources(
        self,
        names: Sequence[str],
        *,
        x: Axis = "time",
        begin: float | None = None,
        end: float | None = None,
        width: float = 1000,
        left: float = 0,
        ratio: float = 1,
        smooth: float = 0.0,
        rank: int = 0,
        y: str = "linear",
        live: bool = False,
    ) -> Reduced:
        """What a chart draws of the machine; the arguments are those of `reduce`.

        What only grows is shown as its rate per second: then `rate` of the track is true. On an
        axis of ticks, what was sampled in ticks that were left behind is left out.
        """
        _check_smoothing(smooth)
        with self._lock:
            machine = self._machine(rank)
            rows = Rows(self._recorded.history(rank))
            start_ns = begin_ns(rows)
            if x in ("time", "elapsed"):
                place, which = machine.times(x, start_ns)
            else:
                ends = self._recorded.ends
                place, which = machine.ticks(ends, rows.base("tick"), self._axis(x, rows, rank))
            extent = _extent([place])
            view = View(*_stretch(extent, begin, end), width, left, ratio)
            known = set(machine.names)
            found: list[tuple[str, LeftBehind | None, Line]] = []
            for name in names:
                if name in known:
                    column = machine.column(name)[which]
                    track, positive = Track(), Track(positive=y == "log")
                    track.extend(column)
                    positive.extend(column)
                    raw, smoothed = track.points(place), Smoothed(smooth)
                    logged = positive.points(place)
                    reduce = reduce_live if live else reduce_line
                    if smooth:
                        smoothed.extend(raw.finite)
                        points = raw._replace(finite=smoothed.values, levels=smoothed.levels)
                        line = reduce(points, view, raw=raw)
                    else:
                        line = reduce(logged, view)
                    add_marks(line, logged, view)
                    found.append((name, None, line))
            meta = {"x": x, "rank": rank, "begin_ns": start_ns, "extent": extent}
            answer = Reduced.of(found, view, meta | {"rows": len(place), "cursor": self.cursor})
            for track_meta in answer.meta["tracks"]:
                track_meta["rate"] = is_rate(track_meta["name"])
            return answer

    def _machine(self, rank: int) -> Machine:
        self._begin()
        self._recorded.want(rank)
        machine = self._machines.get(rank)
        if machine is None:
            machine = self._machines[rank] = Machine(self._recorded.directory, rank)
        machine.refresh(self._recorded.info.id)
        return machine

    # --- what is kept ---------------------------------------------------------------------------

    def _axis(self, x: Axis, rows: Rows, rank: int) -> Floats:
        unit = unit_of(self.names()) if x == "tokens" else None
        others = [other for other in self._recorded.ranks if other != rank and x == "tokens"]
        self._recorded.want(*others)
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


def _stretch(
    extent: tuple[float, float], begin: float | None, end: float | None
) -> tuple[float, float]:
    return extent[0] if begin is None else begin, extent[1] if end is None else end


def _check_smoothing(smooth: float) -> None:
    if not 0 <= smooth < 1:
        raise ConfigError("smoothing must be at least 0 and less than 1", got=f"{smooth:g}")
