"""What a figure shows: the lines and the events of some runs, reduced to one view."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from metronorm.board.series import Chart, RunSeries
from metronorm.board.series._arrays import Floats
from metronorm.board.series.buckets import bucket_size
from metronorm.board.series.moments import Moment
from metronorm.board.series.pixels import POINTS_PER_PIXEL, View
from metronorm.errors import ConfigError
from metronorm.runs.event_words import in_words
from metronorm.runs.events import Event, read_events
from metronorm.store.schema import FIXED
from metronorm.store.sql_columns import literal
from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.board.series.axes import Axis
    from metronorm.runs import Run

PIXELS = 1000  # to which lines are reduced
MOST_EVENTS = 1000
MOST_NAMES = 8  # in an error
# those that explain a curve, as on the page of the board
EVENTS = (
    "resume", "branch", "changed", "checkpoint", "checkpoint failed", "stall", "signal",
    "not finite", "dropped", "stop", "test", "end",
)  # fmt: skip
_TIMES = [name for name in FIXED["ticks"] if name.endswith("_ns") and name != "time_ns"]


class Wanted(NamedTuple):
    """What a figure is asked for; see `metronorm.board.plot`."""

    names: Sequence[str]
    x: Axis
    y: Literal["linear", "log"]
    begin: Any
    end: Any
    smooth: float
    rank: int


@dataclass(frozen=True)
class Plotted:
    """A line of a run.

    Attributes:
        run: the number of the run.
        name: the number of the metric.
        attempt: of ticks that a later attempt did again; None: of any other line.
        is_band: whether it is the band behind a smoothed line.
        x: where the points are, in the unit of the axis.
        y: their values; NaN between two pieces of the line.
        place: of a point in a bucket: 0 to 3 for first, lowest, highest and last; -1 for any other.
        marks: pixels with values that the axis cannot show, and what these are.
        counts: how many rows there are in the view, and how many are `nan`, `pinf`, ...
        bucket: the length of a bucket; None: every value is a point.
    """

    run: int
    name: int
    attempt: int | None
    is_band: bool
    x: Floats
    y: Floats
    place: Any
    marks: tuple[Any, Any]
    counts: dict[str, int]
    bucket: float | None


class Mark(NamedTuple):
    """An event of a run: where it stands, and what it says."""

    run: int
    x: float
    words: str


@dataclass(frozen=True)
class Contents:
    """All of a figure.

    `unit` is what the axis `tokens` counts, `notes` are sentences on what is not in it.
    """

    view: View
    unit: str
    is_log: bool
    lines: list[Plotted]
    marks: list[Mark]
    notes: list[str]


def read_contents(runs: Sequence[Run], labels: Sequence[str], wanted: Wanted) -> Contents:
    """Read what a figure shows.

    Args:
        runs: the runs.
        labels: their names.
        wanted: what to show.

    Raises:
        ConfigError: no run has such a metric or rank, or there is no such axis or view.
        RunError: a file may not be read.
    """
    series = [RunSeries(run.directory, cache=False) for run in runs]
    _check(series, wanted)
    metas = [each.reduce([], x=wanted.x, rank=wanted.rank, ghosts=True).meta for each in series]
    view = _view([meta["extent"] for meta in metas if meta["rows"]] or [(0.0, 1.0)], wanted)
    lines, marks, notes = [], [], []
    for number, (run, each) in enumerate(zip(runs, series, strict=True)):
        own = [name for name in wanted.names if name.lower() in _names(each)]
        notes += [f"{labels[number]} has no {name}" for name in wanted.names if name not in own]
        lines += _lines(each, own, view, wanted, number)
        found, left_out = _marks(run, each, view, wanted.x, number)
        marks += found
        notes += [f"of {labels[number]} the newest {MOST_EVENTS:,} events"] if left_out else []
        notes += each.notices()
    units = dict.fromkeys(meta["unit"] for meta in metas if meta["unit"])
    return Contents(view, ", ".join(units), wanted.y == "log", lines, marks, notes)


def _names(series: RunSeries) -> dict[str, str]:
    phases = [f"{phase}_ns" for phase in series.phases()]
    return {name.lower(): name for name in (*series.names(), *phases, *_TIMES)}


def _check(series: Sequence[RunSeries], wanted: Wanted) -> None:
    known: dict[str, str] = {}
    for each in series:
        known |= _names(each)
    for name in wanted.names:
        if name.lower() not in known:
            near = difflib.get_close_matches(name.lower(), known, n=MOST_NAMES)
            near += [other for other in known if name.lower() in other and other not in near]
            choices = [known[other] for other in (near or known)][:MOST_NAMES]
            more = "" if near or len(known) <= MOST_NAMES else f" or {len(known) - MOST_NAMES} more"
            raise ConfigError(
                "a figure needs a metric of the run",
                got=repr(name),
                fix=", ".join(map(printable, choices)) + more,
            )
    ranks = sorted({rank for each in series for rank in each.ranks})
    if ranks and wanted.rank not in ranks:
        raise ConfigError(
            "the rank must have recorded ticks", got=str(wanted.rank), fix=f"one of {ranks}"
        )


def _view(extents: Sequence[tuple[float, float]], wanted: Wanted) -> View:
    begin, end = min(first for first, _ in extents), max(last for _, last in extents)
    if wanted.begin is not None:
        begin = _on_axis(wanted.begin, wanted.x)
    if wanted.end is not None:
        end = _on_axis(wanted.end, wanted.x)
    return View(begin, end, PIXELS)


def _on_axis(value: Any, x: Axis) -> float:
    """A value of a person in the unit of the axis."""
    try:
        if x == "time":
            return np.datetime64(value, "us").astype(np.int64) / 1e3
        return float(value) * (1e9 if x in ("elapsed", "training") else 1)
    except (TypeError, ValueError):
        kind = "a time" if x == "time" else "a number"
        raise ConfigError(f"an end of the axis {x} must be {kind}", got=repr(value)) from None


def _lines(
    series: RunSeries, names: list[str], view: View, wanted: Wanted, run: int
) -> list[Plotted]:
    found = []
    for smooth in dict.fromkeys((0.0, wanted.smooth)):
        chart = Chart(view.begin, view.end, view.width, smooth=smooth, y=wanted.y, live=True)
        reduced = series.reduce(names, chart, x=wanted.x, rank=wanted.rank, ghosts=True)
        arrays: list[dict[str, Any]] = [{} for _ in reduced.meta["tracks"]]
        for kind, values, track, _ in reduced.columns:
            arrays[track or 0][kind] = values
        for track, own in zip(reduced.meta["tracks"], arrays, strict=True):
            bucket = None
            if track["rows"] >= POINTS_PER_PIXEL * view.width:
                bucket = bucket_size(view)
            counts = {name: track[name] for name in ("rows", "nan", "pinf", "ninf", "below")}
            found.append(
                Plotted(
                    run,
                    [*wanted.names].index(track["name"]),
                    track["ghost"] and track["ghost"]["attempt"],
                    bool(wanted.smooth) and not smooth,
                    *_points(own, bucket),
                    (own["bad"], own["bad_kind"]),
                    counts,
                    bucket,
                )
            )
    return found


def _points(arrays: dict[str, Any], bucket: float | None) -> tuple[Floats, Floats, Any]:
    """The points of a line in pieces: x, y and place."""
    x, y = arrays["x"], arrays["y"]
    begins, ends = arrays["gap_from"], arrays["gap_to"]
    place = np.full(len(x), -1)
    if bucket is not None:
        # the four of a bucket stand at 1, 3, 5 and 7 eighths of it
        place = (np.round(x / bucket % 1 * 8).astype(int) - 1) // 2
        apart = np.floor(begins / bucket) < np.floor(ends / bucket)
        begins, ends = begins[apart], np.floor(ends[apart] / bucket) * bucket
    at = np.searchsorted(x, ends)
    return np.insert(x, at, begins), np.insert(y, at, np.nan), np.insert(place, at, -1)


def _marks(
    run: Run, series: RunSeries, view: View, x: Axis, number: int
) -> tuple[list[Mark], bool]:
    """The events in the view, and whether there are more."""
    events = read_events(run.events(), f"event in ({', '.join(map(literal, EVENTS))})")
    known: dict[tuple[Any, ...], Event] = {}
    for event in events:  # each rank says it
        what = event.fields.get("path", event.fields.get("metric", event.tick))
        known.setdefault((event.attempt, event.name, str(what)), event)
    newest = [*known.values()][-MOST_EVENTS:]
    moments = [Moment(event.attempt, event.tick, event.time_ns) for event in newest]
    marks = [
        Mark(number, place, shortened(printable(f"{in_words(event)}, tick {event.tick:,}"), 160))
        for event, place in zip(newest, series.places(moments, x), strict=True)
        if place is not None and view.begin <= place <= view.end
    ]
    return marks, len(known) > MOST_EVENTS
