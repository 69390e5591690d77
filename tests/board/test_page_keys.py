"""With the keyboard alone, every control of every view is reached, in order, and left again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from metronorm.clock import Clock

from .boards import serving
from .browsers import reading

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

    from .boards import Served

VIEWS = (
    "runs",
    "metrics",
    "ticks",
    "resources",
    "norms",
    "diagnosis",
    "samples",
    "config",
    "compare",
    "options",
)
# finds what Tab should stop at: of a group of radio buttons, the one that is chosen
# (the page keeps an element that would not change, so nothing may be written on it)
FIND = """() => {
  const all = [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex='0'], audio[controls]")]
  const stops = all.filter((each) => each.checkVisibility({ visibilityProperty: true })
    && !each.disabled && !(each.type === "radio" && !each.checked))
  window.stops = stops
  return stops.map((each) => each.outerHTML.slice(0, 120))
}"""
FOCUSED = """() => {
  const it = document.activeElement
  const { width, height } = it.getBoundingClientRect()
  const { outlineStyle, boxShadow } = getComputedStyle(it)
  const next = it.nextElementSibling // of a radio button: its words
  const inner = next ? getComputedStyle(next).outlineStyle : "none"
  return [window.stops.indexOf(it), width * height > 0,
    outlineStyle !== "none" || boxShadow !== "none" || inner !== "none"]
}"""


@pytest.mark.parametrize("view", VIEWS)
def test_tab_stops_at_every_control_once_and_shows_where_it_is(
    browser: Browser, board: Served, odd: str, view: str
) -> None:
    with reading(browser, board) as reader:
        page = reader.page
        reader.open(f"{view}?run={odd}&filter=loss")
        if view in ("runs", "metrics", "ticks"):
            page.wait_for_selector(".card.loaded")
            reader.settle()
        controls = page.evaluate(FIND)
        reached: list[int] = []
        for _ in controls:
            page.keyboard.press("Tab")
            stop, has_size, has_mark = page.evaluate(FOCUSED)
            assert stop >= 0, f"after {controls[reached[-1]]}"
            assert has_size, controls[stop]
            assert has_mark, controls[stop]
            reached.append(stop)
        missed = [each for at, each in enumerate(controls) if at not in reached]
        assert not missed, missed


def test_the_focus_stays_while_a_run_goes_on(browser: Browser, tmp_path: Path) -> None:
    now = "document.activeElement.getAttribute('aria-label')"
    with (
        Clock(tmp_path / "run", progress=False) as clock,
        serving(tmp_path) as served,
        reading(browser, served) as reader,
    ):
        ticks = iter(clock.ticks(range(1000)))
        for view, button in (("metrics", "Star"), ("runs", "Star: run"), ("config", "Pin as")):
            next(ticks)
            clock.log(loss=1.0)
            reader.open(f"{view}?run={served.runs()['run']['id']}")
            star = reader.page.get_by_role("button", name=button).first
            star.focus()
            tick = clock.tick
            for _ in range(3):
                next(ticks)
                clock.log(loss=float("nan"))
            text = f"() => document.body.innerText.includes('{tick + 2} ')"
            reader.page.wait_for_function(text)
            assert (reader.page.evaluate(now) or "").startswith(button), view
