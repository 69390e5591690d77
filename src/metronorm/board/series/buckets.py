"""A line while its view moves: the extremes of buckets with fixed edges, so that nothing wobbles.

The edges are whole multiples of a power of two of the axis' unit, wherever the view begins. A
bucket is at most a pixel wide, so no extreme is missing, and x is right within a pixel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from metronorm.board.series.pixels import POINTS_PER_PIXEL
from metronorm.board.series.reducing import Line, all_points, find_reach, gaps, point

if TYPE_CHECKING:
    from metronorm.board.series.pixels import View
    from metronorm.board.series.reducing import Reach
    from metronorm.board.series.tracks import Points

# where in its bucket first, lowest, highest and last stand
_PLACES = np.array([1, 3, 5, 7]) / 8


def bucket_size(view: View) -> float:
    """How long a bucket is, in the unit of the axis."""
    return float(2.0 ** math.floor(math.log2((view.end - view.begin) / view.width)))


def reduce_live(points: Points, view: View, *, raw: Points | None = None) -> Line:
    """Cut a line at fixed edges: four points for each bucket, or all points where these are fewer.

    Args:
        points: the line.
        view: the view, which is about to change.
        raw: the line before it was smoothed, whose extremes are to be sent too.
    """
    reach = find_reach(points, view)
    if reach is None or reach.end - reach.first < POINTS_PER_PIXEL * view.width:
        return all_points(points, view, reach, raw)
    return _buckets(points, view, reach, raw)


def _buckets(points: Points, view: View, reach: Reach, raw: Points | None) -> Line:
    size = bucket_size(view)
    edges = np.arange(math.floor(view.begin / size), math.floor(view.end / size) + 2) * size
    counts = points.finite_before(np.searchsorted(points.x, edges))
    some = counts[:-1] < counts[1:]
    start, end = counts[:-1][some], counts[1:][some]
    low, high = points.levels.extremes(points.finite, start, end)
    line = Line("points")
    line.arrays = {
        "x": (edges[:-1][some][:, None] + _PLACES * size).ravel(),
        "y": np.stack([points.finite[start], low, high, points.finite[end - 1]], 1).ravel(),
    }
    if raw is not None:
        low, high = raw.levels.extremes(raw.finite, start, end)
        line.arrays["raw"] = np.stack([low, low, high, high], 1).ravel()
    # outside of the buckets: the points to which a line leads from the edge
    for number, at_end in ((reach.begin, False), (reach.last, True)):
        if not edges[0] <= points.x[number] < edges[-1]:
            x, y = point(points, number)
            values = {"x": x, "y": y} | ({"raw": point(raw, number)[1]} if raw else {})
            for name, value in values.items():
                array = line.arrays[name]
                line.arrays[name] = np.insert(array, len(array) if at_end else 0, value)
    line.arrays |= gaps(points, reach, view)
    return line
