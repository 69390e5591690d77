"""Line charts in characters, for `metronorm show` and `metronorm watch`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import plotext
from rich.text import Text

from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GAP = "   "  # between the names of lines
COLORS = (12, 10, 9, 14, 13, 11, 8, 7, 4, 2, 1, 6, 5, 3)  # of the terminal, the bright ones first


def chart(
    title: str, lines: Mapping[str, Sequence[tuple[int, float]]], width: int, height: int
) -> Text:
    """Draw a line chart; if it has several lines, their names are below it.

    Args:
        title: the text above the chart.
        lines: the points (tick, value) of every line, at least one, by the name of the line.
        width: characters in a row.
        height: rows, with those of the names.
    """
    names = names_of_lines(list(lines), width, height // 3) if len(lines) > 1 else []
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")  # curves in colors, the rest in the terminal's own
    figure.plot_size(width, height - len(names))
    figure.title(shortened(printable(title), width))
    for points, color in zip(lines.values(), itertools.cycle(COLORS)):
        # the last point is given twice: plotext draws no line through a single point
        columns = map(list, zip(*points, points[-1], strict=True))
        figure.draw(figure.signal(*columns, marker=plotext.marker("hd", color)).lines(True))
    first = min(points[0][0] for points in lines.values())
    last = max(points[-1][0] for points in lines.values())
    marks = round_ticks(first, last, width)
    figure.ruler("x").ticks(marks, [f"{mark:,}" for mark in marks])
    return Text("\n").join([Text.from_ansi(figure.build().string().rstrip("\n")), *names])


def names_of_lines(names: Sequence[str], width: int, most: int) -> list[Text]:
    """Rows of names in the colors of their lines, `most` at most; names without room are counted.

    They are not in a box inside of the axes: it would hide where the curves begin.
    """
    rows: list[list[Text]] = []
    for name, color in zip(names, itertools.cycle(COLORS)):
        sign = Text(f"▚ {shortened(printable(name), max(width // 3, 8))}", f"color({color})")
        if rows and Text(GAP).join([*rows[-1], sign]).cell_len <= width:
            rows[-1].append(sign)
        else:
            rows.append([sign])
    if len(rows) > most:
        shown = max(most - 1, 0)
        left = sum(map(len, rows[shown:]))
        rows = [*rows[:shown], [Text(f"and {left:,} more")]][:most]
    return [Text(GAP).join(row) for row in rows]


def round_ticks(first: int, last: int, width: int) -> list[int]:
    """Round numbers of ticks to write below the axis, as many as fit: 0, 200, 400, ..."""
    most = max(width // (len(f"{last:,}") + 4), 1)
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    step = next(step for step in steps if (last - first) // step < most)
    return list(range(-(-first // step) * step, last + 1, step)) or [first]
