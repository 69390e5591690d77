"""A board in a process of its own, and a browser's visit to it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

REST_MS = 2000  # a new window of Chromium loads pages of its own for a second
TOKEN = "a-token-that-is-only-for-this-benchmark"
# resolves when the first card is drawn and painted; ms since the navigation began
DRAWN = """selector => new Promise((done) => {
  const look = () => document.querySelector(selector)
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now())))
    : requestAnimationFrame(look)
  look()
})"""


@contextlib.contextmanager
def board(folder: Path, *, before: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """A board over the runs of a folder, in a process of its own: its address and process.

    Args:
        folder: of the runs.
        before: code that the process runs first.
    """
    code = f"{before}\nimport sys; from metronorm.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "board", str(folder), "--no-open"]
    environment = os.environ | {"METRONORM_BOARD_TOKEN": TOKEN}
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
