"""An answer as data for uPlot, as the page's `columns.js` makes it of the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metronorm.board.series.pixels import View
    from metronorm.board.series.reducing import Line


def expand(line: Line, view: View) -> tuple[list[float], list[float]]:
    """The points of a line in a view."""
    if line.kind == "points":
        return line.arrays["x"].tolist(), line.arrays["y"].tolist()
    pixels, *four = (
        line.arrays[name].tolist() for name in ("column", "first", "min", "max", "last")
    )
    points = list(line.before)
    # from four points per pixel on, uPlot draws column by column: copies make up the number
    copies = max(0, 4 * (int(view.width) - len(pixels)) + 2) if pixels else 0
    points += [(float(view.values(pixels[0] + 1 / 32)), four[0][0]) for _ in range(copies)]
    for pixel, *values in zip(pixels, *four, strict=True):
        for slot, value in enumerate(values, 1):
            points.append((float(view.values(pixel + slot / 32)), value))
    points += line.after
    return [x for x, _ in points], [y for _, y in points]


def hidden(line: Line) -> list[tuple[float, float]]:
    """Between what values of x the line is hidden."""
    pairs = line.arrays["gap_from"].tolist(), line.arrays["gap_to"].tolist()
    return list(zip(*pairs, strict=True))
