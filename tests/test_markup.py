"""HTML and SVG for notebooks: text stays text, and a small chart loses nothing."""

import re
from itertools import product
from xml.etree import ElementTree

import pytest

from metronorm.board._plotting import HUES, INK
from metronorm.markup import (
    BAD,
    HEIGHT,
    RAIL,
    WIDTH,
    Html,
    bar,
    element,
    escaped,
    joined,
    sparkline,
    table,
)

HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\u202e\x00"


def strokes(chart: str, path: int) -> list[list[float]]:
    """The numbers of each stroke of a path of a chart."""
    (found,) = [ElementTree.fromstring(chart)[path].attrib["d"]]
    return [
        [float(number) for number in re.findall(r"-?[\d.]+", stroke)]
        for stroke in found.split("M")[1:]
    ]


def test_text_stays_text_wherever_it_is_put() -> None:
    shown = joined(
        [
            element("b", HOSTILE, title=HOSTILE),
            table(("", HOSTILE), [(HOSTILE, element("i", HOSTILE))]),
        ],
        HOSTILE,
    )
    tree = ElementTree.fromstring(element("div", shown))  # it is well-formed
    assert {node.tag for node in tree.iter()} == {
        "div", "b", "table", "thead", "tbody", "tr", "th", "td", "i"
    }  # fmt: skip
    visible = "<script>alert(1)</script>&\"'\\x1b[31m\\u202e\\x00"
    assert "".join(tree.itertext()) == visible * 5
    assert tree[0].attrib == {"title": visible}


def test_what_is_html_already_is_not_escaped_twice() -> None:
    once = escaped("a < b")
    assert (once, escaped(once)) == ("a &lt; b", "a &lt; b")
    assert isinstance(joined([once, "&"]), Html)


def test_one_spike_among_many_ticks_reaches_the_top_and_a_dip_the_foot() -> None:
    low, high = [1.0] * 100, [1.0] * 100
    high[40], low[70] = 9.0, -9.0
    chart = sparkline(range(100), low, high, [1.0] * 100, [0] * 100)
    found = strokes(chart, 0)
    assert len(found) == 100
    tops = [min(begin, end) for _, begin, end in found]
    feet = [max(begin, end) for _, begin, end in found]
    assert (tops.index(min(tops)), feet.index(max(feet))) == (40, 70)
    assert 0 < min(tops) < 3
    assert HEIGHT - 3 < max(feet) < HEIGHT
    assert all(0 <= x <= WIDTH for x, _, _ in found)


def test_a_stretch_without_finite_values_interrupts_the_line_and_is_marked() -> None:
    values = [1.0, 2.0, None, 3.0, 4.0]
    chart = sparkline([1, 2, 3, 4, 5], values, values, values, [0, 0, 7, 1, 0])
    assert [len(stroke) // 2 for stroke in strokes(chart, 1)] == [2, 2]
    middle, _, length = strokes(chart, 2)[0]
    assert (middle, length) == (WIDTH / 2, RAIL)
    assert len(strokes(chart, 2)) == 2


@pytest.mark.parametrize(
    "values", [[], [5.0], [None], [0.0, 0.0], [-1.7e308, 1.7e308], [5e-324, 0.0]], ids=str
)
def test_few_equal_and_extreme_values_are_drawn_within_the_chart(
    values: list[float | None],
) -> None:
    count = len(values)
    chart = sparkline(range(count), values, values, values, [value is None for value in values])
    drawn = [number for path in (0, 1, 2) for stroke in strokes(chart, path) for number in stroke]
    assert len(strokes(chart, 0)) + len(strokes(chart, 2)) == count
    assert all(0 <= number <= WIDTH for number in drawn)


@pytest.mark.parametrize(("share", "width"), [(0.5, WIDTH / 2), (-1.0, 0), (7.0, WIDTH)])
def test_a_bar_is_as_long_as_its_share(share: float, width: float) -> None:
    assert float(ElementTree.fromstring(bar(share))[1].attrib["width"]) == width


def luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("ground", ["#ffffff", "#111111", "#1e1e1e"])
def test_colours_can_be_seen_on_light_and_on_dark_notebooks(ground: str) -> None:
    for color, other in product((BAD, INK, *HUES), [ground]):
        low, high = sorted((luminance(color), luminance(other)))
        assert (high + 0.05) / (low + 0.05) >= 3, color
