"""The stretch that charts show: when they are asked to draw, and when to fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .browsers import reading

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .boards import Served

# a span of a run that has one tick; `told` is what it has asked for since
SPAN = """async () => {
  const main = document.querySelector('script[type="module"]').src
  const { Span } = await import(new URL("charts/span.js", main))
  window.span = new Span()
  window.told = []
  span.on((what) => told.push(what))
  span.include([0, 1])
  told.length = 0
}"""


def test_a_run_that_grows_is_fetched_exactly_only_when_it_rests(
    browser: Browser, board: Served
) -> None:
    with reading(browser, board) as reader:
        page = reader.page
        page.clock.install()
        page.evaluate(SPAN)
        for tick in range(2, 12):  # each answer of a live chart has a newer tick
            page.evaluate("tick => span.include([0, tick])", tick)
            page.clock.run_for(500)
        assert page.evaluate("told") == ["move"] * 10
        page.clock.run_for(1000)
        assert page.evaluate("told") == ["move"] * 10 + ["rest"]


def test_a_zoom_is_fetched_soon_while_the_run_grows(browser: Browser, board: Served) -> None:
    with reading(browser, board) as reader:
        page = reader.page
        page.clock.install()
        page.evaluate(SPAN)
        page.evaluate("span.include([0, 2]); span.whole(); span.include([0, 3])")
        page.clock.run_for(150)
        assert page.evaluate("told").count("rest") == 1
