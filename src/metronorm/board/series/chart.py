"""What a chart asks for: which stretch of the run, on which pixels, drawn how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.board.series.pixels import View
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.board.series._arrays import Floats


@dataclass(frozen=True)
class Stretch:
    """A stretch of an axis.

    Args:
        begin: the value of the axis at the left edge of the plot; None: where the run begins.
        end: the value at its right edge; None: where the run ends.
        width: the width of the plot in device pixels.
    """

    begin: float | None = None
    end: float | None = None
    width: float = 1000

    def over(self, extent: tuple[float, float]) -> tuple[float, float]:
        """Its two ends in a run that reaches over `extent`."""
        begin, end = extent
        return begin if self.begin is None else self.begin, end if self.end is None else self.end


@dataclass(frozen=True)
class Chart(Stretch):
    """A stretch with lines in it.

    Args:
        left: the distance of the plot from the left edge of the canvas in device pixels.
        ratio: device pixels in a CSS pixel.
        smooth: the weight of `Smoothed`; 0: as it was logged.
        y: the axis of the values; on "log", 0 and less are no points of the line.
        live: the view is about to change: x is right within a pixel, and does not wobble.

    Raises:
        ConfigError: no values can be smoothed like that.
    """

    left: float = 0
    ratio: float = 1
    smooth: float = 0.0
    y: str = "linear"
    live: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.smooth < 1:
            raise ConfigError(
                "smoothing must be at least 0 and less than 1", got=f"{self.smooth:g}"
            )

    def view(self, extent: tuple[float, float]) -> View:
        """Its pixels.

        Raises:
            ConfigError: no such view can be drawn.
        """
        return View(*self.over(extent), self.width, self.left, self.ratio)


WHOLE = Chart()  # a run from its begin to its end


def extent_of(axes: Sequence[Floats]) -> tuple[float, float]:
    """Where the first and the last row of any of them stand, at least 1 apart."""
    some = [axis for axis in axes if len(axis)]
    begin = min((float(axis[0]) for axis in some), default=0.0)
    return begin, max([begin + 1, *(float(axis[-1]) for axis in some)])
