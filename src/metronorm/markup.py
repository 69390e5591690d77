"""HTML and SVG for notebooks: tables, bars and sparklines, in the colours of the page around them.

Text is data: what is no `Html` already is escaped. There are no scripts, styles of a page or links,
so what is shown is the same in every notebook, in light and in dark.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Values = Sequence[float | None]

WIDTH, HEIGHT, RAIL = 160, 28, 6  # pixels of a sparkline; the rail below it has marks
BAD = "#d0453e"  # has 3:1 on white and on the black of notebooks
_TABLE = "border-collapse: collapse; color: inherit; font-variant-numeric: tabular-nums"
_CELL = "padding: 1px 12px 1px 0; vertical-align: middle; white-space: nowrap; text-align: "


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Text as HTML that shows it, with what is invisible made visible."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text)))


def joined(parts: Iterable[str], between: str = "") -> Html:
    """Some parts as one."""
    return Html(escaped(between).join(map(escaped, parts)))


def element(name: str, *inner: str, **attributes: str | float) -> Html:
    """An element, such as `element("b", "text")`; in names of attributes `_` stands for `-`."""
    written = [
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(str(value)))}"'
        for key, value in attributes.items()
    ]
    return Html(f"<{name}{''.join(written)}>{joined(inner)}</{name}>")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table; its first column is text, the others are numbers.

    Args:
        head: the titles of the columns.
        rows: the cells of each row.
    """

    def row(kind: str, cells: Sequence[str]) -> Html:
        sides = ("left", *["right"] * (len(cells) - 1))
        pairs = zip(cells, sides, strict=True)
        return element("tr", *(element(kind, cell, style=_CELL + side) for cell, side in pairs))

    return element(
        "table",
        element("thead", row("th", head)),
        element("tbody", *(row("td", cells) for cells in rows)),
        style=_TABLE,
    )


def bar(share: float) -> Html:
    """A bar as long as a share of 1."""
    filled = min(max(share, 0.0), 1.0) * WIDTH
    box: dict[str, str | float] = {"height": 10, "fill": "currentColor"}
    return element(
        "svg",
        element("rect", width=WIDTH, fill_opacity=0.12, **box),
        element("rect", width=f"{filled:.1f}", fill_opacity=0.6, **box),
        width=WIDTH,
        height=10,
        aria_hidden="true",  # the share stands beside it
    )


def sparkline(
    x: Sequence[float], low: Values, high: Values, mean: Values, bad: Sequence[int]
) -> Html:
    """A small chart of a metric: a stroke from the lowest to the highest value of each stretch.

    A line leads through the means. Marks on the rail below are stretches that have values that are
    not finite; where a stretch has no others, the line is interrupted.

    Args:
        x: where each stretch begins, in ascending order.
        low: its lowest finite value; None: it has none.
        high: its highest one.
        mean: the mean; None: it has none.
        bad: how many of its values are not finite.
    """
    bottom = min((value for value in low if value is not None), default=0.0)
    top = max((value for value in high if value is not None), default=0.0)

    def place(value: float) -> str:
        return f"{2 + (WIDTH - 4) * (value - x[0]) / ((x[-1] - x[0]) or 1):.1f}"

    def level(value: float) -> str:
        span = top / 2 - bottom / 2  # the difference itself may overflow
        share = (value / 2 - bottom / 2) / span if span else 0.5
        return f"{2 + (HEIGHT - 4) * (1 - share):.1f}"

    strokes, line, marks, pen = [], [], [], "M"
    for at, one, two, middle, count in zip(x, low, high, mean, bad, strict=True):
        if one is None or two is None:
            pen = "M"
        else:
            strokes.append(f"M{place(at)} {level(one)}V{level(two)}")
        if middle is not None and math.isfinite(middle):
            line.append(f"{pen}{place(at)} {level(middle)}")
            pen = "L"
        if count:
            marks.append(f"M{place(at)} {HEIGHT}v{RAIL}")
    style: dict[str, str | float] = {"fill": "none", "stroke_linecap": "round"}
    ink, bad_ink = style | {"stroke": "currentColor"}, style | {"stroke": BAD, "stroke_width": 1.5}
    return element(
        "svg",
        element("path", d="".join(strokes), stroke_opacity=0.5, stroke_width=1.5, **ink),
        element("path", d="".join(line), stroke_linejoin="round", **ink),
        element("path", d="".join(marks), **bad_ink),
        width=WIDTH,
        height=HEIGHT + RAIL,
        aria_hidden="true",  # its lowest and highest value, and the count, stand beside it
    )
