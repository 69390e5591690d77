"""A real Chromium for tests of the page, and what a reader does with it.

`make test` installs Debian's Chromium with apt-get, where it may. Without a Chromium the tests of
the page are skipped, and say so.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .boards import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from .boards import Served

NAMES = ("chromium", "chromium-browser", "google-chrome")
LARGE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
# (on a phone it takes links of the navigation that are scrolled away for links to skip something)
AXE = """axe.run({ rules: { "skip-link": { enabled: false } } })
  .then(({ violations }) => violations)"""
SETTLED = """() => {
  const seen = ({ top, bottom }) => top < innerHeight && bottom > 0
  const cards = [...document.querySelectorAll(".card")]
  return cards.every((card) => card.matches(".loaded, :has(.error)")
    || !card.matches(".skeleton") && !seen(card.getBoundingClientRect()))
}"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser until the block ends; skips the test if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Reader:
    """Somebody with a page open. `problems` are errors of its scripts and failed requests."""

    def __init__(self, browser: Browser, served: Served, **options: Any) -> None:
        self.served = served
        options = {"viewport": LARGE, "locale": "en-US"} | options
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("response", self._answered)
        self.page.goto(f"{served.url}/#token={TOKEN}")
        self.page.wait_for_selector(".view-runs")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.url}: {response.text()}")

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, view: str) -> None:
        """Open a view by its fragment, and wait until its charts and lists are there."""
        self.page.evaluate("fragment => { location.hash = fragment }", view)
        name = re.split(r"[?]", view)[0]
        self.page.wait_for_selector(f".view-{name}")
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is loading any more."""
        self.page.wait_for_function(SETTLED)

    def card(self, title: str) -> Any:
        """The card of this title."""
        return self.page.locator(f'.card[aria-label="{title}"]')

    def table_of(self, title: str) -> tuple[list[str], list[list[str]]]:
        """The numbers of a chart as its table has them: the head, and the rows."""
        self.card(title).scroll_into_view_if_needed()
        self.settle()
        self.card(title).locator(".plot").focus()
        self.page.keyboard.press("t")
        dialog = self.page.locator("dialog")
        head = dialog.locator("thead th").all_inner_texts()
        rows = dialog.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        self.page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
        return head, rows

    def barriers(self) -> list[str]:
        """What keeps people from reading the page, as axe-core finds it."""
        axe = pytest.importorskip("axe_playwright_python")
        if self.page.evaluate("typeof axe") == "undefined":
            self.page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
        return [
            f"{one['id']}: {node['html']} {node['failureSummary']}"
            for one in self.page.evaluate(AXE)
            for node in one["nodes"]
        ]

    def keep(self, name: str) -> None:
        """Keep a picture of the page, if METRONORM_SCREENSHOTS names a folder."""
        if folder := os.environ.get("METRONORM_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png")

    def close(self) -> None:
        """Close the page; nothing may have gone wrong on it."""
        self.context.close()
        if self.problems:
            pytest.fail("\n".join(["problems on the page:", *self.problems]))


@contextlib.contextmanager
def reading(browser: Browser, served: Served, **options: Any) -> Iterator[Reader]:
    """A reader until the block ends, whose page must have had no problem."""
    reader = Reader(browser, served, **options)
    yield reader
    reader.close()
