"""Fingers on the charts of a phone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from .browsers import PHONE, reading
from .page_runs import TICKS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from .boards import Served


LEFT, RIGHT = 64, 22  # CSS pixels of a canvas beside the plotted area


class Fingers:
    """Fingers on the screen of a page; places are in CSS pixels."""

    def __init__(self, page: Page) -> None:
        self._devtools = page.context.new_cdp_session(page)

    def touch(self, kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        event = {"type": f"touch{kind}", "touchPoints": points}
        self._devtools.send("Input.dispatchTouchEvent", event)

    def slide(self, *ways: tuple[tuple[float, float], tuple[float, float]], steps: int = 8) -> None:
        """Each finger goes from one place to another."""
        self.touch("Start", *(begin for begin, _ in ways))
        for step in range(1, steps + 1):
            share = step / steps
            self.touch(
                "Move",
                *(
                    (x + share * (to_x - x), y + share * (to_y - y))
                    for (x, y), (to_x, to_y) in ways
                ),
            )
        self.touch("End")


def test_a_phone_has_a_list_of_all_views(browser: Browser, board: Served, odd: str) -> None:
    with reading(browser, board, viewport=PHONE) as reader:
        reader.open(f"metrics?run={odd}")
        views = reader.page.locator("nav select")
        names = views.locator("option").evaluate_all("all => all.map(each => each.value)")
        assert len(names) == 10
        for name in names:
            views.select_option(name)
            reader.page.wait_for_selector(f".view-{name}")
            assert views.input_value() == name
        reader.settle()


@pytest.mark.parametrize(("view", "title"), [("metrics", "loss"), ("ticks", "Phases of a tick")])
def test_fingers_zoom_and_pan_a_chart(
    browser: Browser, board: Served, odd: str, view: str, title: str
) -> None:
    phone = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    with reading(browser, board, **phone) as reader:
        reader.open(f"{view}?run={odd}")
        page, fingers = reader.page, Fingers(reader.page)
        reader.card(title).scroll_into_view_if_needed()
        reader.settle()
        plot = reader.card(title).locator("canvas").first.bounding_box()
        middle, y = plot["x"] + plot["width"] / 2, plot["y"] + plot["height"] / 2

        def stretch(begin: float = 0, reach: float = TICKS) -> list[float]:
            """The stretch in the address, once it begins within reach of a tick."""
            found = page.wait_for_function(
                """([begin, reach]) => {
                  const query = new URLSearchParams(location.hash.split("?")[1])
                  const now = ["from", "to"].map((key) => Number(query.get(key)))
                  return now[1] && Math.abs(now[0] - begin) < reach ? now : null
                }""",
                arg=[begin, reach],
            )
            return list(found.json_value())

        # two fingers go apart: a part of the run, around the place between them
        fingers.slide(((middle - 30, y), (middle - 90, y)), ((middle + 30, y), (middle + 90, y)))
        third, air = (TICKS - 1) / 3, 0.5 if view == "ticks" else 0
        share = (plot["width"] / 2 - LEFT) / (plot["width"] - LEFT - RIGHT)
        zoomed = stretch(1 + share * 2 * third, 2)
        assert zoomed[1] - zoomed[0] == pytest.approx(third + 2 * air / 3)
        reader.settle()
        # one finger to the left: later ticks, as many
        fingers.slide(((middle, y), (middle - 60, y)))
        moved = 60 / (plot["width"] - LEFT - RIGHT) * (zoomed[1] - zoomed[0])
        later = stretch(zoomed[0] + moved, 1)
        assert later[1] - later[0] == pytest.approx(zoomed[1] - zoomed[0])
        assert re.search("tick [0-9]", reader.card(title).locator(".strip").inner_text())
        reader.keep(f"touch-{view}")
        # up and down scrolls the page
        fingers.slide(((middle, y), (middle, y - 200)), steps=20)
        page.wait_for_function("() => scrollY > 50")
        assert stretch() == later
        # two fingers come together: all of it again
        plot = reader.card(title).locator("canvas").first.bounding_box()
        y = plot["y"] + plot["height"] / 2
        fingers.slide(((middle - 90, y), (middle - 10, y)), ((middle + 90, y), (middle + 10, y)))
        page.wait_for_function("() => !location.hash.includes('from=')")
