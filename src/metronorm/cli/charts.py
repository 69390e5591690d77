"""Line charts in characters, for `metronorm show` and `metronorm watch`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import plotext
from rich.text import Text

from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from metronorm.runs.summary import Curve


def chart(title: str, curves: dict[str, Curve], width: int, height: int) -> Text:
    """A line chart of `width` times `height` characters; every curve has a point at least."""
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")  # curves in colors, the rest in the terminal's own
    figure.plot_size(width, height)
    figure.title(shortened(printable(title), width))
    figure.legend(len(curves) > 1)
    for name, curve in curves.items():
        # a lone point is a line of no length: drawn as two equal ones
        signal = figure.signal([*curve.ticks, curve.ticks[-1]], [*curve.values, curve.values[-1]])
        figure.draw(signal.label(shortened(printable(name), max(width // 3, 8))).lines(True))
    first = min(curve.ticks[0] for curve in curves.values())
    last = max(curve.ticks[-1] for curve in curves.values())
    marks = round_ticks(first, last, width)
    figure.ruler("x").ticks(marks, [f"{mark:,}" for mark in marks])
    return Text.from_ansi(figure.build().string())


def round_ticks(first: int, last: int, width: int) -> list[int]:
    """Round ticks to write below the axis, as many as there is room for: 0, 200, 400, ..."""
    most = max(width // (len(f"{last:,}") + 4), 1)
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    step = next(step for step in steps if (last - first) // step < most)
    return list(range(-(-first // step) * step, last + 1, step)) or [first]
