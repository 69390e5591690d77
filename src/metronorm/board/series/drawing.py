"""A line of a chart: what is drawn, what was logged, and what the axis cannot show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.board.series.buckets import reduce_live
from metronorm.board.series.reducing import add_marks, reduce_line

if TYPE_CHECKING:
    from metronorm.board.series.pixels import View
    from metronorm.board.series.reducing import Line
    from metronorm.board.series.smoothing import Smoothed
    from metronorm.board.series.tracks import Points


def draw(
    logged: Points, shown: Points, smoothed: Smoothed | None, view: View, *, live: bool
) -> Line:
    """Reduce a line to a view.

    Args:
        logged: all finite values, whatever the axis can show.
        shown: the values that the axis can show.
        smoothed: `logged` after smoothing, which is drawn instead.
        view: the view.
        live: the view is about to change.
    """
    reduce = reduce_live if live else reduce_line
    if smoothed is None:
        line = reduce(shown, view)
    else:
        smooth = logged._replace(finite=smoothed.values, levels=smoothed.levels)
        line = reduce(smooth, view, raw=logged)
    add_marks(line, shown, view)
    return line
