"""Line charts in characters, for `metronorm show` and `metronorm watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotext
from rich.text import Text

if TYPE_CHECKING:
    from metronorm.clock.summary import Curve


def chart(title: str, curves: dict[str, Curve], width: int, height: int) -> Text:
    """A line chart of `width` times `height` characters; every curve has a point at least."""
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")  # curves in colors, the rest in the terminal's own
    figure.plot_size(width, height)
    figure.title(title)
    figure.legend(len(curves) > 1)
    for name, curve in curves.items():
        # a lone point is a line of no length: drawn as two equal ones
        signal = figure.signal([*curve.ticks, curve.ticks[-1]], [*curve.values, curve.values[-1]])
        figure.draw(signal.label(name).lines(True))
    return Text.from_ansi(figure.build().string())
