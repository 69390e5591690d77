"""The board in a real Chromium: how soon a chart is there, what a visit transfers, what it takes.

    python bench/board.py [FOLDER] [--what PART ...] [--peer NAME ...] [--small]

FOLDER has the runs, which are kept for the next time; files of other boards in FOLDER/peers, with
pictures of what was filmed. Parts (all by default), and the minutes they take on two cores:

| part | | minutes |
| --- | --- | --- |
| million, transferred | a million ticks x 20: first chart, zoom, memory; a first visit | 1 |
| fifty, thousand, wide | 50 runs in one chart, 1,000 in the table, 5,000 names of metrics | 1 |
| peers | million and fifty filmed: our board, TensorBoard, trackio, Aim | 2 to 6 each |
| idle | what server and browser take while nothing happens | 2 |
| live | twenty runs are written: until a tick is in the chart, and in the list | 2 |
| training | ticks per second with server and page beside, in turns with nothing | 9 |
| soak | eight hours of a run in eight minutes: memory of server and pages | 9 |

`--peer` chooses one of the boards; `--small` tries a part out in a minute, on small runs. The files
of a peer are written once: TensorBoard 3 minutes, trackio 6, Aim 10 and more.

Needs Chromium and Playwright. A time is from the start of the navigation, or from a key, until the
chart is drawn and the browser has painted; the board runs in a process of its own.

Aim 3.29 (`pip install aim`) may be in an environment of its own, whose interpreter is then named by
`METRONORM_BENCH_AIM`; where there is none, it is left out and this is said.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _board_beside
from _board_beside import OURS
from _board_data import NAN, SPIKE, long_run, many_runs, wide_run
from _board_live import idle, live, training
from _board_peers import PEERS, has_aim
from _board_soak import soak
from _board_visit import Visit, board
from _rows import append
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

TICKS = {"trackio": 100_000}  # of its million there was no chart after three minutes
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


def beside(browser: Browser, folder: Path, names: list[str], *, small: bool) -> None:
    """Our board and others on the same runs."""
    kept = folder / "peers"
    kept.mkdir(exist_ok=True)
    for name in names:
        if name == "Aim" and not has_aim():
            print("Aim is left out: it is not installed, and METRONORM_BENCH_AIM names no python")
            continue
        ticks = 20_000 if small else TICKS.get(name, 1_000_000)
        _board_beside.long(browser, _long(folder, ticks), kept, name, ticks)
        _board_beside.several(browser, _fifty(folder), kept, name)


def _long(folder: Path, ticks: int = 1_000_000) -> Path:
    runs = folder / {1_000_000: "long"}.get(ticks, f"long-{ticks}")
    if not runs.exists():
        long_run(runs / runs.name, ticks)
    return runs


def _fifty(folder: Path) -> Path:
    if not (folder / "fifty").exists():
        many_runs(folder / "fifty", 50, 2_000, alike=False)
    return folder / "fifty"


def _thousand(folder: Path) -> Path:
    if not (folder / "thousand").exists():
        many_runs(folder / "thousand", 1_000, 20)
    return folder / "thousand"


def _wide(folder: Path) -> Path:
    if not (folder / "wide").exists():
        wide_run(folder / "wide" / "wide")
    return folder / "wide"


def main() -> None:
    """Make the runs where they are missing, then measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=None)
    parser.add_argument("--what", nargs="+", default=None)
    parser.add_argument("--peer", nargs="+", default=[OURS, *PEERS], choices=[OURS, *PEERS])
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    small: bool = given.small
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[Browser], None]] = {
        "million": lambda it: million(it, _long(folder)),
        "transferred": lambda it: transferred(it, _long(folder)),
        "fifty": lambda it: several(it, _fifty(folder)),
        "thousand": lambda it: thousand(it, _thousand(folder)),
        "wide": lambda it: wide(it, _wide(folder)),
        "peers": lambda it: beside(it, folder, given.peer, small=small),
        "idle": lambda it: idle(it, _fifty(folder), 5 if small else 60),
        "live": lambda it: live(it, folder / "live", 8 if small else 60),
        "training": lambda it: training(it, folder / "train", *((2, 3) if small else (10, 8))),
        "soak": lambda it: soak(it, folder / "soak", 0.5 if small else 8),
    }
    wanted = given.what or list(parts)
    if unknown := set(wanted) - parts.keys():
        parser.error(f"--what takes {', '.join(parts)}: got {', '.join(sorted(unknown))}")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for part in wanted:
            begun = time.monotonic()
            parts[part](browser)
            print(f"{part}: in {time.monotonic() - begun:.0f} s")
        browser.close()


if __name__ == "__main__":
    main()
