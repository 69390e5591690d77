"""The series of one run, for the charts of a board."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.board.series.axes import begin_ns
from metronorm.board.series.chart import WHOLE, Chart, Stretch, extent_of
from metronorm.board.series.drawing import draw
from metronorm.board.series.kept import Kept
from metronorm.board.series.machine import Machine, is_rate
from metronorm.board.series.moments import Moment, places_of
from metronorm.board.series.overviews import (
    Buckets,
    buckets,
    layers,
    norm_numbers,
    phase_times,
    rank_times,
    tick_times,
)
from metronorm.board.series.pixels import MOST_PIXELS, View
from metronorm.board.series.recorded import Recorded, Rows
from metronorm.board.series.reduced import Column, Reduced
from metronorm.board.series.smoothing import Smoothed
from metronorm.board.series.tracks import Track
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.store.schema import FIXED

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from metronorm.board.series._arrays import Floats
    from metronorm.board.series.ahead import Ahead
    from metronorm.board.series.axes import Axis
    from metronorm.board.series.reducing import Line
    from metronorm.board.series.tracks import Value
    from metronorm.runs.history import LeftBehind

BAR_PIXELS, CELL_PIXELS = 2, 4  # the width of a bar and of a cell of a heat map, at least


class RunSeries:
    """The columns of a run, read when somebody asks for them, and reduced to the pixels of a view.

    Every method may be called from any thread; calls for one run wait for each other.

    Args:
        directory: the directory of the run.
        cache: keep columns of millions of rows in `RUN/board/levels/`, which may be deleted. A
            folder that may not be written works, too.
        ahead: what `read_ahead` has read of the run.

    Raises:
        RunError: there is no run, or it has a newer schema.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        cache: bool = True,
        ahead: Ahead | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._recorded = Recorded(Path(directory).absolute(), cache=cache, ahead=ahead)
        self._kept = Kept(self._recorded)
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
            return self._kept.nbytes + sum(tape.nbytes for tape in held)

    def trim(self, most: int) -> None:
        """Let go of the columns that were not used for longest, until the rest takes few bytes.

        Ticks and times are kept: 24 bytes a tick.

        Args:
            most: the bytes that `nbytes` may then be, if there are columns enough.
        """
        with self._lock:
            tapes = self._recorded.tapes.values()
            while self.nbytes > most and (held := [name for it in tapes for name in it.held]):
                self._kept.let_go(held[0])
                for tape in tapes:
                    tape.let_go(held[0])

    def _begin(self) -> None:
        if not self._read:
            self.refresh()

    def reduce(
        self,
        names: Sequence[str],
        chart: Chart = WHOLE,
        *,
        x: Axis = "tick",
        rank: int = 0,
        ghosts: bool = False,
    ) -> Reduced:
        """What a chart draws of some metrics.

        Args:
            names: metrics, or columns of times such as `wall_ns` and `forward_ns`; those that the
                run does not have are left out.
            chart: which stretch, and how it is drawn.
            x: the axis.
            rank: whose values.
            ghosts: also ticks that a later attempt has left behind, as lines of their own.

        Raises:
            ConfigError: an argument is wrong.
            RunError: a file may not be read.
        """
        with self._lock:
            self._begin()
            self._recorded.want(rank)
            rows = Rows(self._recorded.history(rank))
            names = self._known(names)
            rows.load(names)
            axis = self._kept.axis(x, rank)
            places: list[tuple[LeftBehind | None, Rows, Floats]] = [(None, rows, axis)]
            for ghost in self._recorded.ghosts(rank) if ghosts else ():
                own = Rows([ghost.piece])
                places.append((ghost.left, own, self._kept.ghost_axis(x, own, rank)))
            extent = extent_of([place for _, _, place in places])
            view = chart.view(extent)
            found = []
            for name in names:
                for left_by, own, place in places:
                    track = self._kept.track(name, own)
                    shown = self._kept.track(name, own, positive=chart.y == "log").points(place)
                    smoothed = None
                    if chart.smooth:
                        smoothed = self._kept.smoothed(name, own, chart.smooth)
                    line = draw(track.points(place), shown, smoothed, view, live=chart.live)
                    found.append((name, left_by, line))
            time = rows.base("time_ns")
            return Reduced.of(
                found,
                view,
                {
                    "x": x,
                    "rank": rank,
                    "unit": self._kept.unit if x == "tokens" else None,
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

    def value(self, name: str) -> Value | None:
        """The last, lowest and highest value of a metric, of the first rank that has any.

        Args:
            name: the metric.

        Returns:
            None: the run has no such values.

        Raises:
            RunError: a file may not be read.
        """
        with self._lock:
            self._begin()
            for rank in self._recorded.ranks if self._known([name]) else ():
                value = self._kept.track(name, Rows(self._recorded.history(rank))).value()
                if value is not None:
                    return value
            return None

    def places(self, moments: Sequence[Moment], x: Axis) -> list[float | None]:
        """Where events stand on an axis of `reduce`; None: before the first tick.

        Raises:
            ConfigError: there is no such axis, or the run counts nothing.
            RunError: a file may not be read.
        """
        with self._lock:
            self._begin()
            return places_of(moments, x, self._recorded, self._kept)

    # --- buckets of ticks: what the arguments and columns mean is in `overviews` ----------------

    def phase_times(self, stretch: Stretch = WHOLE, *, rank: int = 0) -> Reduced:
        """The mean time of each phase: columns `x`, `y` with the name of a phase, and `max`."""
        with self._lock:
            rows, cut, meta = self._buckets(stretch, BAR_PIXELS, rank)
            return Reduced(phase_times(rows, self.phases(), cut), meta)

    def tick_times(self, stretch: Stretch = WHOLE, *, rank: int = 0) -> Reduced:
        """How many ticks took how long: columns `x`, `edges` and `count`."""
        with self._lock:
            rows, cut, meta = self._buckets(stretch, CELL_PIXELS, rank)
            return Reduced(tick_times(rows, cut), meta)

    def rank_times(self, stretch: Stretch = WHOLE, *, value: str = "wall") -> Reduced:
        """The ranks beside each other: columns `x`, `rank` and `value[rank * buckets + bucket]`.

        Args:
            stretch: which ticks.
            value: "wall": the mean tick time; "arrival": the mean time from the beginning of a tick
                until the rank enters the collective. NaN where nothing is known.

        Raises:
            ConfigError: it is another value.
        """
        if value not in ("wall", "arrival"):
            raise ConfigError("the value must be wall or arrival", got=repr(value))
        with self._lock:
            _, cut, meta = self._buckets(stretch, CELL_PIXELS, 0)
            ticks = open_run(self._recorded.directory).ticks()
            found = rank_times(ticks, self._recorded.ranks, f"{value}_ns", cut)
            return Reduced(found, meta)

    def norms(self, stat: str | None = None, stretch: Stretch = WHOLE, *, rank: int = 0) -> Reduced:
        """A number of all layers, from metrics `norm.LAYER.NUMBER`: columns `x` and `value`.

        `meta.stats` are all such numbers, `meta.layers` the layers that have this one; without a
        number there is no `value`.
        """
        with self._lock:
            rows, cut, meta = self._buckets(stretch, CELL_PIXELS, rank)
            known = norm_numbers(self.names())
            meta |= {"stats": [*known], "layers": known.get(stat or "", [])}
            if stat is None:
                return Reduced([Column("x", cut.begins)], meta)
            names = [f"norm.{layer}.{stat}" for layer in meta["layers"]]
            rows.load(names)
            axis, ticks = self._kept.axis("tick", rank), rows.base("tick")
            tracks = [self._kept.track(name, rows).points(axis) for name in names]
            return Reduced(layers(tracks, ticks, cut), meta)

    def _buckets(
        self, stretch: Stretch, pixels: int, rank: int
    ) -> tuple[Rows, Buckets, dict[str, Any]]:
        self._begin()
        self._recorded.want(rank)
        rows = Rows(self._recorded.history(rank))
        extent = extent_of([self._kept.axis("tick", rank)])
        view = View(*stretch.over(extent), 1)
        most = min(max(int(stretch.width / pixels), 1), MOST_PIXELS)
        cut = buckets(rows.base("tick"), view.begin, view.end, most)
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
        chart: Chart = WHOLE,
        *,
        x: Axis = "time",
        rank: int = 0,
    ) -> Reduced:
        """What a chart draws of the machine; the arguments are those of `reduce`.

        What only grows is shown as its rate per second: then `rate` of the track is true. On an
        axis of ticks, what was sampled in ticks that were left behind is left out.
        """
        with self._lock:
            machine = self._machine(rank)
            rows = Rows(self._recorded.history(rank))
            start_ns = begin_ns(rows)
            if x in ("time", "elapsed"):
                place, which = machine.times(x, start_ns)
            else:
                ends = self._recorded.ends
                place, which = machine.ticks(ends, rows.base("tick"), self._kept.axis(x, rank))
            extent = extent_of([place])
            view = chart.view(extent)
            found: list[tuple[str, LeftBehind | None, Line]] = []
            for name in (name for name in names if name in machine.names):
                column = machine.column(name)[which]
                track, shown, smoothed = Track(), Track(positive=chart.y == "log"), None
                track.extend(column)
                shown.extend(column)
                if chart.smooth:
                    smoothed = Smoothed(chart.smooth)
                    smoothed.extend(track.finite)
                logged, drawn = track.points(place), shown.points(place)
                found.append((name, None, draw(logged, drawn, smoothed, view, live=chart.live)))
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
