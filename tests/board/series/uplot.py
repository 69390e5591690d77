"""What uPlot 1.6 draws of a line, read from its source, on a raster without anti-aliasing.

`draw` takes the same data as uPlot: x in ascending order, and for each a value, None where the line
is broken, or NOTHING where this line has no point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOTHING = object()
Value = Any  # float, None or NOTHING


@dataclass(frozen=True)
class Plot:
    """A plot: its x scale, its box in device pixels, and its y scale."""

    begin: float
    end: float
    width: int
    height: int
    low: float
    high: float
    scale: str = "linear"
    left: int = 0

    def x_pixel(self, value: float) -> int:
        share = (value - self.begin) / (self.end - self.begin)
        return math_round(self.left + self.width * share)

    def x_value(self, pixel: float) -> float:
        return self.begin + (self.end - self.begin) * ((pixel - self.left) / self.width)

    def y_pixel(self, value: float) -> int:
        forward = SCALES[self.scale]
        low, high = forward(self.low, self.low), forward(self.high, self.low)
        share = (forward(value, self.low) - low) / (high - low)
        return math_round(max(-5000.0, min(5000.0, self.height * (1 - share))))


SCALES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda value, low: value,
    # `clampScale`: what a log scale cannot show stands below its lowest value
    "log": lambda value, low: math.log10(value if value > 0 else low / 10),
    "asinh": lambda value, low: math.asinh(value),
}


def math_round(value: float) -> int:
    whole = math.floor(value)
    return whole + (value - whole >= 0.5)


def closest(value: float, xs: Sequence[float]) -> int:
    low, high = 0, len(xs) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if xs[middle] < value:
            low = middle
        else:
            high = middle
    return low if value - xs[low] <= xs[high] - value else high


def is_value(value: Value) -> bool:
    return value is not None and value is not NOTHING


def reach(xs: Sequence[float], ys: Sequence[Value], plot: Plot) -> tuple[int, int]:
    """`setScales`, `getOuterIdxs` and `nonNullIdxs`; an end before the beginning: nothing."""
    first, last = closest(plot.begin, xs), closest(plot.end, xs)
    if last - first > 1:
        first += xs[first] < plot.begin
        last -= xs[last] > plot.end
    first, last = max(first - 1, 0), min(last + 1, len(xs) - 1)
    while not is_value(ys[first]) and first > 0:
        first -= 1
    while not is_value(ys[last]) and last < len(xs) - 1:
        last += 1
    while first <= last and not is_value(ys[first]):
        first += 1
    while last >= first and not is_value(ys[last]):
        last -= 1
    return first, last


def path(xs: Sequence[float], ys: Sequence[Value], plot: Plot) -> list[tuple[int, int]]:
    """The points to which `paths.linear` draws lines."""
    first, last = reach(xs, ys, plot)
    if last < first:
        return []
    if last - first < plot.width * 4:
        some = [at for at in range(first, last + 1) if is_value(ys[at])]
        return [(plot.x_pixel(xs[at]), plot.y_pixel(ys[at])) for at in some]

    drawn: list[tuple[int, int]] = []
    low: float | None = None
    high = came = went = 0.0
    column = plot.x_pixel(xs[first])
    limit = plot.x_value(column + 1)

    def finish() -> None:
        assert low is not None
        edges = [plot.y_pixel(value) for value in (low, high, came, went)]
        if edges[0] != edges[1]:
            if edges[0] not in edges[2:]:
                drawn.append((column, edges[0]))
            if edges[1] not in edges[2:]:
                drawn.append((column, edges[1]))
            drawn.append((column, edges[3]))

    for at in range(first, last + 1):
        x = column if xs[at] < limit else plot.x_pixel(xs[at])
        y = ys[at]
        if x == column:
            if is_value(y):
                went = y
                if low is None:
                    drawn.append((x, plot.y_pixel(y)))
                    came = low = high = y
                elif y < low:
                    low = y
                elif y > high:
                    high = y
            continue
        if low is not None:
            finish()
        column, low = x, None
        if is_value(y):
            came = went = low = high = y
            drawn.append((x, plot.y_pixel(y)))
        limit = plot.x_value(column + 1)
    if low is not None and low != high:
        finish()
    return drawn


def gaps(xs: Sequence[float], ys: Sequence[Value], plot: Plot) -> list[tuple[int, int]]:
    """`findGaps`: the pixels between which the line is hidden."""
    first, last = reach(xs, ys, plot)
    found = []
    at = first
    while at <= last:
        if ys[at] is None:
            begin = at
            while at + 1 <= last and ys[at + 1] is None:
                at += 1
            pair = plot.x_pixel(xs[max(begin - 1, 0)]), plot.x_pixel(xs[min(at + 1, len(xs) - 1)])
            if pair[1] >= pair[0]:
                found.append(pair)
            at += 1  # the loop of uPlot goes on behind the value that ended the gap
        at += 1
    return found


def draw(
    xs: Sequence[float],
    ys: Sequence[Value],
    plot: Plot,
    hidden: Sequence[tuple[float, float]] | None = None,
) -> npt.NDArray[np.bool_]:
    """The pixels of a line; `[row, column]`.

    With `hidden`, the hook `series.gaps` gives the gaps by these pairs of x.
    """
    canvas = np.zeros((plot.height + 1, plot.left + plot.width + 1), bool)
    if not xs:
        return canvas
    points = path(xs, ys, plot)
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        along = np.arange(steps + 1)
        x = x0 + (x1 - x0) * along // steps
        y = y0 + (y1 - y0) * along // steps
        inside = (y >= 0) & (y <= plot.height) & (plot.left <= x) & (x <= plot.left + plot.width)
        canvas[y[inside], x[inside]] = True
    found = gaps(xs, ys, plot)
    if hidden is not None:
        found = [(plot.x_pixel(begin), plot.x_pixel(end)) for begin, end in hidden]
    if found:  # `clipGaps`
        visible = np.zeros(canvas.shape[1], bool)
        ended = plot.left
        for begin, end in found:
            if end > begin:
                visible[max(ended, 0) : max(begin, 0)] = True
                ended = end
        visible[max(ended, 0) :] = True
        canvas &= visible
    return canvas
