"""Line charts in characters, for `metronorm show` and `metronorm watch`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import plotext
from rich.text import Text

from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def chart(
    title: str, lines: Mapping[str, Sequence[tuple[int, float]]], width: int, height: int
) -> Text:
    """Draw a line chart.

    Args:
        title: the text above the chart.
        lines: the points (tick, value) of every line, at least one, by the name of the line.
        width: characters in a row.
        height: rows.
    """
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")  # curves in colors, the rest in the terminal's own
    figure.plot_size(width, height)
    figure.title(shortened(printable(title), width))
    figure.legend(len(lines) > 1)
    for name, points in lines.items():
        # the last point is given twice: plotext draws no line through a single point
        signal = figure.signal(*map(list, zip(*points, points[-1], strict=True)))
        figure.draw(signal.label(shortened(printable(name), max(width // 3, 8))).lines(True))
    first = min(points[0][0] for points in lines.values())
    last = max(points[-1][0] for points in lines.values())
    marks = round_ticks(first, last, width)
    figure.ruler("x").ticks(marks, [f"{mark:,}" for mark in marks])
    return Text.from_ansi(figure.build().string())


def round_ticks(first: int, last: int, width: int) -> list[int]:
    """Round numbers of ticks to write below the axis, as many as fit: 0, 200, 400, ..."""
    most = max(width // (len(f"{last:,}") + 4), 1)
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    step = next(step for step in steps if (last - first) // step < most)
    return list(range(-(-first // step) * step, last + 1, step)) or [first]
