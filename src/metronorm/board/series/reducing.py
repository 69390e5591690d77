"""What a view draws of a line: all of its points, or four of each pixel column.

The four are the first, the lowest, the highest and the last point.

Drawn without anti-aliasing, they give the pixels of all points (M4, VLDB 2014): inside of a pixel
column a line covers what lies between its lowest and its highest point, and from column to column
it goes from the last point to the first one. That holds for every axis that keeps the order of
values: linear, log, asinh. The page's `columns.js` makes of it what uPlot draws.

| what a line has in a view | is sent as |
| --- | --- |
| fewer than four points per pixel | `points`: all of them |
| more | `columns`: the four values of every pixel column that has a point |
| just outside | the finite points to which uPlot draws a line from the edge |
| values that are not finite | gaps in the line, and marks for a rail |
| values of 0 and less | on a log axis as those; else as any value |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from metronorm.board.series.pixels import POINTS_PER_PIXEL, columns

if TYPE_CHECKING:
    import numpy.typing as npt

    from metronorm.board.series._arrays import Floats
    from metronorm.board.series.pixels import View
    from metronorm.board.series.tracks import Points

NAN, POSITIVE, NEGATIVE, BELOW = 1, 2, 4, 8  # what a mark on a rail stands for


@dataclass
class Line:
    """A line, reduced to what a view draws.

    Attributes:
        kind: "points" or "columns".
        arrays: the numbers, by name. Those of points are `x` and `y`. Those of columns are `column`
            (the pixel), `first`, `min`, `max` and `last`. The line is hidden between `gap_from` and
            `gap_to`, values of x. Marks for rails are `bad` (the pixel) and `bad_kind`. With
            smoothing, `raw` or `band_min` and `band_max` are of the line before that.
        before: the points left of the columns, as (x, y).
        after: the points right of the columns.
        counts: `rows` in the view, and how many of them are `nan`, `pinf`, `ninf`, and `below`: 0
            or less.
        first_nan: where the first NaN of the whole line is.
        first_bad: where its first value is that is NaN or infinite.
    """

    kind: Literal["points", "columns"]
    arrays: dict[str, Any] = field(default_factory=dict)
    before: list[tuple[float, float]] = field(default_factory=list)
    after: list[tuple[float, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    first_nan: float | None = None
    first_bad: float | None = None


class Reach(NamedTuple):
    """The points of a line that uPlot draws in a view, by their numbers.

    Those in the view begin at `first` and come before `end`; what is drawn begins at the finite
    point `begin` and ends with the finite point `last`.
    """

    first: int
    end: int
    begin: int
    last: int


def reduce_line(points: Points, view: View, *, raw: Points | None = None) -> Line:
    """Cut a line at the pixel edges of a view.

    Args:
        points: the line.
        view: the view at rest.
        raw: the line before it was smoothed, whose extremes are to be sent too.
    """
    reach = find_reach(points, view)
    few = reach is None or reach.end - reach.first < 3  # the rest: not finite, and outside
    if reach is None or few or reach.last - reach.begin < POINTS_PER_PIXEL * view.width:
        line = all_points(points, view, reach, raw)
    else:
        line = _columns(points, view, reach, raw)
    return line


def find_reach(points: Points, view: View) -> Reach | None:
    """Which points uPlot draws; None if none of them is finite."""
    if not len(points.finite):
        return None
    first, last = _closest(points.x, view.begin), _closest(points.x, view.end)
    if last - first > 1:  # fewer may lie outside
        first += points.x[first] < view.begin
        last -= points.x[last] > view.end
    before, after = points.finite_before(np.array([first, last + 1])).tolist()
    return Reach(
        *_inside(points.x, view),
        points.finite_point(max(before - 1, 0)),
        points.finite_point(min(after, len(points.finite) - 1)),
    )


def _closest(x: Floats, value: float) -> int:
    after = min(max(int(np.searchsorted(x, value)), 1), len(x) - 1)
    return after - 1 if after and value - x[after - 1] <= x[after] - value else after


def _inside(x: Floats, view: View) -> tuple[int, int]:
    first, end = np.searchsorted(x, view.begin), np.searchsorted(x, view.end, "right")
    return int(first), int(end)


def all_points(points: Points, view: View, reach: Reach | None, raw: Points | None) -> Line:
    """All points in reach; arguments as of `reduce_line`."""
    line = Line("points")
    if reach is None:
        names = ("x", "y") if raw is None else ("x", "y", "raw")
        line.arrays = {name: np.empty(0) for name in (*names, "gap_from", "gap_to")}
        return line
    begin, end = reach.begin, reach.last + 1
    values = slice(*points.finite_before(np.array([begin, end])))
    good = np.ones(end - begin, bool)
    good[points.bad[slice(*np.searchsorted(points.bad, [begin, end]))] - begin] = False
    line.arrays = {"x": points.x[begin:end][good], "y": points.finite[values]}
    if raw is not None:
        line.arrays["raw"] = raw.finite[values]
    line.arrays |= gaps(points, reach, view)
    return line


def _columns(points: Points, view: View, reach: Reach, raw: Points | None) -> Line:
    x, width = points.x, int(view.width)
    # points that are not finite open columns as well, but those far outside do not matter
    near = np.searchsorted(x, view.values(np.array([-1.0, view.width + 1.0]))).tolist()
    begin = max(min(reach.first, near[0]), reach.begin)
    end = min(max(reach.end, near[1]), reach.last + 1)
    line = Line("columns")
    opened = None
    for number in _finite_between(points, reach.begin, reach.first):
        place, opened = _follow(points, number, view, opened)
        line.before.append(place)
        begin = max(begin, number + 1)
    outside = _finite_between(points, reach.end, reach.last + 1)
    end = min([end, *outside])
    starts, pixels = map(np.array, columns(x[begin:end], view, opened))
    starts = starts.astype(np.int64) + begin
    at = points.finite_before(starts)
    until = np.append(at[1:], points.finite_before(np.array([end])))
    for right in np.flatnonzero((at < until) & (pixels >= width)):  # at the right edge itself
        line.after += _few(points, int(at[right]), int(until[right]))
    opened = int(pixels[-1]) if len(pixels) else opened
    for number in outside:
        place, opened = _follow(points, number, view, opened)
        line.after.append(place)
    some = (at < until) & (pixels >= 0) & (pixels < width)
    at, until = at[some], until[some]
    low, high = points.levels.extremes(points.finite, at, until)
    line.arrays = {
        "column": pixels[some].astype(np.int32),
        "first": points.finite[at],
        "min": low,
        "max": high,
        "last": points.finite[until - 1],
    }
    _join_to_first_column(line, int(view.pixels(x[[reach.begin]])[0]))
    if raw is not None:
        low, high = raw.levels.extremes(raw.finite, at, until)
        line.arrays |= {"band_min": low, "band_max": high}
    line.arrays |= gaps(points, reach, view)
    return line


def _join_to_first_column(line: Line, pixel: int) -> None:
    """A point left of the view that opens a column in it is the first point of that column."""
    column, first = line.arrays["column"], line.arrays["first"]
    if line.before and len(column) and column[0] == pixel:
        _, first[0] = line.before.pop()
        for name, extreme in (("min", min), ("max", max)):
            values = line.arrays[name]
            values[0] = extreme(values[0], first[0])


def _few(points: Points, at: int, until: int) -> list[tuple[float, float]]:
    """Some finite values of one column as at most four points."""
    if until - at <= 4:
        return [point(points, points.finite_point(number)) for number in range(at, until)]
    x, first = point(points, points.finite_point(at))
    inside = points.finite[at:until]
    return [(x, value) for value in (first, *map(float, (inside.min(), inside.max(), inside[-1])))]


def _finite_between(points: Points, begin: int, end: int) -> list[int]:
    before, after = points.finite_before(np.array([begin, max(begin, end)])).tolist()
    return [points.finite_point(number) for number in range(before, after)]


def point(points: Points, number: int) -> tuple[float, float]:
    """The place and the value of a finite point."""
    at = points.finite_before(np.array([number]))[0]
    return float(points.x[number]), float(points.finite[at])


def _follow(
    points: Points, number: int, view: View, opened: int | None
) -> tuple[tuple[float, float], int]:
    """A point outside of the view, and the pixel of its column.

    If it follows a column that was opened before it, its place is in that column.
    """
    x, value = point(points, number)
    pixel = int(view.pixels(points.x[[number]])[0])
    if opened is not None and opened != pixel and x < view.values(opened + 1.0):
        return (float(view.values(opened + 1 / 32)), value), opened
    return (x, value), pixel


def gaps(points: Points, reach: Reach, view: View) -> dict[str, Any]:
    """Between what values of x a line is hidden, as uPlot's `findGaps` finds it.

    Gaps that hide nothing in this view are left out, but for one: with any gap, uPlot also cuts
    the line at the edges of the plot.
    """
    bad = points.bad[slice(*np.searchsorted(points.bad, [reach.begin, reach.last]))]
    first = bad[np.diff(bad, prepend=-2) > 1]
    last = bad[np.diff(bad, append=2**62) > 1]
    begin, end = points.x[first - 1], points.x[last + 1]
    pixels = np.stack([view.pixels(begin), view.pixels(end)], 1)
    seen = (pixels[:, 0] < pixels[:, 1]) & (pixels[:, 1] >= 0) & (pixels[:, 0] <= view.width)
    if not seen.any():
        return {"gap_from": begin[:1], "gap_to": end[:1]}
    _, kept = np.unique(pixels[seen], axis=0, return_index=True)
    return {"gap_from": begin[seen][kept], "gap_to": end[seen][kept]}


def add_marks(line: Line, points: Points, view: View) -> None:
    """Count what an axis cannot show, in the view and in all, and mark it for a rail.

    Args:
        line: the line, reduced.
        points: the line as it was logged, for the axis on which it is drawn.
        view: the view.
    """
    begin, end = _inside(points.x, view)
    at = slice(*np.searchsorted(points.bad, [begin, end]))
    values = points.bad_values[at]
    shown = points.finite[slice(*points.finite_before(np.array([begin, end])))]
    kinds = np.select(
        [np.isnan(values), values == np.inf, values == -np.inf], [NAN, POSITIVE, NEGATIVE], BELOW
    )
    line.counts = {
        "rows": end - begin,
        "nan": int(np.count_nonzero(kinds == NAN)),
        "pinf": int(np.count_nonzero(kinds == POSITIVE)),
        "ninf": int(np.count_nonzero(kinds == NEGATIVE)),
        "below": int(np.count_nonzero(kinds == BELOW)) + int(np.count_nonzero(shown <= 0)),
    }
    pixels = view.pixels(points.x[points.bad[at]]).clip(0, view.width - 1).astype(np.int32)
    line.arrays["bad"], place = np.unique(pixels, return_inverse=True)
    line.arrays["bad_kind"] = np.zeros(len(line.arrays["bad"]), np.uint8)
    np.bitwise_or.at(line.arrays["bad_kind"], place, kinds.astype(np.uint8))
    line.first_nan = _first(points, np.isnan(points.bad_values))
    line.first_bad = _first(points, ~np.isfinite(points.bad_values))


def _first(points: Points, which: npt.NDArray[np.bool_]) -> float | None:
    """Where the first of these bad points is."""
    return float(points.x[points.bad[which.argmax()]]) if which.any() else None
