"""The pixel columns of a view, in the very rounding of uPlot 1.6.

uPlot draws a long line column by column (`paths.linear`), and its columns are not simply those of
rounded positions. The point that opens a column stands at its own rounded position; all points
before the *exact* position of the next column follow it:

| positions of the points | their columns |
| --- | --- |
| 4.0, 4.4, 4.7, 4.9, 5.1 | 4, 4, 4, 4, 5 |
| 4.0, 5.7, 6.4, 6.9, 7.1 | 4, 6, 6, 6, 7 |

With fewer than four points per pixel it draws every point, each at its rounded position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from metronorm.board.series._arrays import Floats

POINTS_PER_PIXEL = 4  # from here on uPlot draws columns
MOST_PIXELS = 32_768


@dataclass(frozen=True)
class View:
    """The plot of a stretch of an x axis.

    `begin` and `end` are the values at its left and right edge. `width` and `left` are its width
    and its distance from the left edge of the canvas in device pixels (uPlot's `bbox`), and
    `ratio` is the number of device pixels in a CSS pixel.

    Raises:
        ConfigError: no such view can be drawn.
    """

    begin: float
    end: float
    width: float
    left: float = 0.0
    ratio: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.begin, self.end, self.width, self.left, self.ratio)
        if not (
            np.isfinite(numbers).all()
            and self.begin < self.end
            and np.isfinite(self.end - self.begin)
            and 1 <= self.width <= MOST_PIXELS
            and 0 <= self.left <= MOST_PIXELS
            and 0.1 <= self.ratio <= 16
        ):
            raise ConfigError(
                f"a view must end after it begins and have 1 to {MOST_PIXELS} pixels",
                got=f"from={self.begin:g}, to={self.end:g}, width={self.width:g}, "
                f"left={self.left:g}, ratio={self.ratio:g}",
            )

    def pixels(self, x: Floats) -> Floats:
        """The rounded position of each value, in device pixels from the left edge of the plot."""
        share = (x - self.begin) / (self.end - self.begin)
        position = self.left + self.width * share
        whole = np.floor(position)  # Math.round: a half goes up
        rounded: Floats = whole + (position - whole >= 0.5) - np.floor(self.left)
        return rounded

    def values(self, pixels: Any) -> Any:
        """The value at exact positions, in device pixels from the left edge of the plot."""
        css_width, css_left = round(self.width / self.ratio), round(self.left / self.ratio)
        position = (pixels + np.floor(self.left)) / self.ratio - css_left
        return self.begin + (self.end - self.begin) * (position / css_width)


def columns(x: Floats, view: View, opened: int | None = None) -> tuple[list[int], list[int]]:
    """The columns of many points that uPlot draws.

    Args:
        x: where the points are, in ascending order; few of them far outside of the view.
        view: the view.
        opened: the pixel of the column that a point before these has opened.

    Returns:
        For each column, in order: its first point, and the pixel where it stands.
    """
    # by the pixel of a column: the first point that does not follow it
    steps = np.arange(-2, int(view.width) + 3)
    following = np.searchsorted(x, view.values(steps + 1.0))
    possible = np.unique(np.append(following, 0))
    possible = possible[possible < len(x)]
    pixel_of = dict(zip(possible.tolist(), view.pixels(x[possible]).tolist(), strict=True))
    after = dict(zip(steps.tolist(), following.tolist(), strict=True))
    starts, pixels = [], []
    at, pixel = 0, opened
    if pixel is None or not after.get(pixel):
        pixel = int(pixel_of[0]) if len(x) else 0
    while at < len(x):
        starts.append(at)
        pixels.append(pixel)
        at = max(after.get(pixel, 0), at + 1)
        if at < len(x):
            pixel = int(pixel_of[at]) if at in pixel_of else int(view.pixels(x[[at]])[0])
    return starts, pixels
