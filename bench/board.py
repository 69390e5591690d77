"""The board in a real Chromium: how soon a chart is there, what a visit transfers, what it takes.

    python bench/board.py [FOLDER for the runs, which are kept]

Needs Chromium and Playwright. A time is from the start of the navigation, or from a key, until the
chart is drawn and the browser has painted; the board runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from _board_data import NAN, SPIKE, long_run, many_runs, wide_run
from _rows import append
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

REST_MS = 2000  # a new window of Chromium loads pages of its own for a second
TOKEN = "a token that is only for this benchmark"
# resolves when the first card is drawn and painted; ms since the navigation began
DRAWN = """selector => new Promise((done) => {
  const look = () => document.querySelector(selector)
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now())))
    : requestAnimationFrame(look)
  look()
})"""
ZOOM = """() => new Promise((done) => {
  const card = document.querySelector(".card.loaded")
  const before = card.dataset.shown
  const begun = performance.now()
  const key = new KeyboardEvent("keydown", { key: "+", bubbles: true })
  card.querySelector(".plot").dispatchEvent(key)
  const look = () => card.dataset.shown !== before
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)))
    : requestAnimationFrame(look)
  look()
})"""


@contextlib.contextmanager
def board(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A board over the runs of a folder, in a process of its own: its address and process."""
    command = [sys.executable, "-m", "metronorm", "board", str(folder), "--no-open"]
    environment = os.environ | {"METRONORM_BOARD_TOKEN": TOKEN.replace(" ", "-")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        try:
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()


class Visit:
    """A browser's visit to a board, with the cookie but nothing in the cache."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.origin, _, token = address.partition("#token=")
        self.context = browser.new_context(viewport={"width": 1440, "height": 900})
        # not by a page, whose first view would have the server read runs
        self.context.request.post(f"{self.origin}api/login", data={"token": token})
        found = self.context.request.get(f"{self.origin}api/runs").json()
        self.runs = {run["name"]: run["id"] for run in found["runs"]}

    def open(self, view: str, selector: str) -> tuple[Page, float]:
        """A new page with a view: the page, and the ms until `selector` is drawn."""
        page = self.context.new_page()
        page.wait_for_timeout(REST_MS)
        page.goto(f"{self.origin}#{view}", wait_until="commit")
        return page, float(page.evaluate(DRAWN, selector))


def million(browser: Browser, folder: Path) -> None:
    """A million ticks of twenty metrics."""
    caches = folder / "long" / "board"
    cold, warm, zooms = [], [], []
    for _ in range(3):
        shutil.rmtree(caches, ignore_errors=True)
        with board(folder) as (address, process):
            visit = Visit(browser, address)
            view = f"metrics?run={visit.runs['long']}"
            page, first = visit.open(view, ".card.loaded")
            cold.append(first)
            page.close()
            page, again = visit.open(view, ".card.loaded")
            warm.append(again)
            page.wait_for_timeout(1000)  # the other cards
            zooms += [page.evaluate(ZOOM) for _ in range(6)]
            page.locator(".card .plot").first.press("0")
            page.wait_for_function("() => !location.hash.includes('from=')")
            page.wait_for_timeout(500)
            words = page.locator('.card[aria-label="loss"]').inner_text()
            label = page.locator('.card[aria-label="loss"] .plot').get_attribute("aria-label") or ""
            assert "NaN 1" in words, f"the NaN at tick {NAN} is not counted"
            assert "highest 100" in label, f"the spike at tick {SPIKE} is not drawn"
            memory = process.memory_info().rss / 2**20
            visit.context.close()
    append("board", "1,000,000 ticks x 20: first chart, cold server", "ms", cold)
    append("board", "1,000,000 ticks x 20: first chart, warm", "ms", warm)
    append("board", "1,000,000 ticks x 20: a zoom is drawn", "ms", zooms)
    append("board", "1,000,000 ticks x 20: memory of the server", "MiB", [memory])


def opened(
    browser: Browser, folder: Path, view: Callable[[dict[str, str]], str], selector: str
) -> list[float]:
    """How long a view of the runs takes on three cold servers, in milliseconds."""
    found = []
    for _ in range(3):
        with board(folder) as (address, _):
            visit = Visit(browser, address)
            page, took = visit.open(view(visit.runs), selector)
            found.append(took)
            page.close()
            visit.context.close()
    return found


def several(browser: Browser, folder: Path) -> None:
    """Fifty runs of 2,000 ticks in one chart."""

    def view(runs: dict[str, str]) -> str:
        return "metrics?filter=loss&" + "&".join(f"shown={run}" for run in runs.values())

    found = opened(browser, folder, view, ".card.loaded")
    append("board", "50 runs x 2,000 ticks in one chart", "ms", found)


def thousand(browser: Browser, folder: Path) -> None:
    """A thousand runs in the table."""
    found = []
    with board(folder) as (address, _):
        visit = Visit(browser, address)
        for _ in range(3):
            page, took = visit.open("runs", ".run-table tbody tr:nth-child(150)")
            found.append(took)
            page.close()
        visit.context.close()
    append("board", "1,000 runs listed, the first 150 rows drawn", "ms", found)


def wide(browser: Browser, folder: Path) -> None:
    """Five thousand names of metrics, until they can be filtered."""
    found = opened(
        browser, folder, lambda runs: f"metrics?run={runs['wide']}", ".section .cards .card"
    )
    append("board", "5,000 names of metrics can be filtered", "ms", found)


def transferred(browser: Browser, folder: Path) -> None:
    """The bytes of a first visit."""
    with board(folder) as (address, _):
        visit = Visit(browser, address)
        page = visit.context.new_page()
        session, total = visit.context.new_cdp_session(page), [0]
        session.send("Network.enable")
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})

        def count(event: dict[str, Any]) -> None:
            total[0] += event["encodedDataLength"]

        session.on("Network.loadingFinished", count)
        page.goto(f"{visit.origin}#metrics?run={visit.runs['long']}")
        page.wait_for_selector(".card.loaded")
        page.wait_for_timeout(1500)
        visit.context.close()
    append("board", "transferred by a first visit", "KB", [total[0] / 1000])


def main() -> None:
    """Make the runs where they are missing, then measure."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    if not (folder / "long").exists():
        long_run(folder / "long" / "long")
        many_runs(folder / "fifty", 50, 2_000)
        many_runs(folder / "thousand", 1_000, 20)
        wide_run(folder / "wide" / "wide")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        begun = time.monotonic()
        million(browser, folder / "long")
        transferred(browser, folder / "long")
        several(browser, folder / "fifty")
        thousand(browser, folder / "thousand")
        wide(browser, folder / "wide")
        browser.close()
    print(f"in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
