"""How soon a tick is on the page, and what a page that is open takes from a training beside it."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from _board_visit import Visit, board
from _board_writer import times, writing
from _rows import append

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from playwright.sync_api import Browser, Page

WRITERS, RATE, METRICS = 20, 5, 5
SETTLE_SECONDS = 3.0
CHART = '.card[aria-label="loss"]'
# notes when the newest tick in the chart, and of each run in the rail, has changed
WATCH = r"""() => {
  window.seen = { chart: [], rail: {} }
  const put = (own, tick) => tick !== own.at(-1)?.[1] && own.push([Date.now() / 1000, tick])
  const note = () => {
    const chart = document.querySelector('.card[aria-label="loss"]')
    put(window.seen.chart, Number(chart?.dataset.shown?.split(" ")[1]))
    for (const row of document.querySelectorAll("#rail .runs li")) {
      const own = (window.seen.rail[row.querySelector(".name").textContent] ??= [])
      const [, tick] = row.querySelector(".about").textContent.match(/ ([\d,]+)/) ?? [0, "0"]
      put(own, Number(tick.replaceAll(",", "")))
    }
  }
  setInterval(() => requestAnimationFrame(() => setTimeout(note)), 20)
}"""


def live(browser: Browser, folder: Path, seconds: float) -> None:
    """Twenty runs are written; when is each tick in the chart of one, and in the list of all?"""
    shutil.rmtree(folder, ignore_errors=True)
    runs = [folder / f"run-{number:02}" for number in range(WRITERS)]
    with writing([(run, RATE, METRICS) for run in runs]), board(folder) as (address, server):
        visit = Visit(browser, address)
        page, _ = visit.open(f"metrics?run={visit.runs['run-00']}", f"{CHART}.loaded")
        page.evaluate(WATCH)
        page.wait_for_timeout(SETTLE_SECONDS * 1000)
        before, begun = processor_seconds([server]), time.time()
        page.wait_for_timeout(seconds * 1000)
        ended, used = time.time(), processor_seconds([server]) - before
        page.wait_for_timeout(2000)
        seen = page.evaluate("window.seen")
        visit.context.close()
    within = (begun, ended)
    case = f"{WRITERS} runs with {RATE} ticks/s"
    delays = _delays(times(runs[0]), seen["chart"], within)
    append("board", f"{case}: until a tick is in the chart", "ms", list(1000 * delays))
    append("board", f"{case}: until a tick is in the chart, longest", "ms", [1000 * delays.max()])
    assert set(seen["rail"]) == {run.name for run in runs}, "the list lacks runs"
    listed = [_delays(times(run), seen["rail"][run.name], within) for run in runs]
    delays = np.concatenate(listed)
    append("board", f"{case}: until a tick is in the list", "ms", list(1000 * delays))
    append("board", f"{case}: until a tick is in the list, longest", "ms", [1000 * delays.max()])
    append("board", f"{case}: processor of the server", "%", [100 * used / (ended - begun)])


def _delays(
    ended: NDArray[Any], seen: Sequence[tuple[float, float]], within: tuple[float, float]
) -> NDArray[Any]:
    """Seconds from the end of each tick until the page showed it, or a later one."""
    at, newest = np.array([each for each in seen if each[1] is not None], dtype=float).T
    ticks = np.flatnonzero((ended >= within[0]) & (ended <= within[1])) + 1
    first = np.searchsorted(newest, ticks)
    if first.max() >= len(at):
        raise RuntimeError(f"the page has not shown tick {ticks[first >= len(at)][0]}")
    delays: NDArray[Any] = at[first] - ended[ticks - 1]
    return delays


def idle(browser: Browser, folder: Path, seconds: float) -> None:
    """What an open page takes while nothing happens: the charts of a run, and the list of all."""
    with board(folder) as (address, server):
        visit = Visit(browser, address)
        views = [f"metrics?run={next(iter(visit.runs.values()))}", "runs"]
        pages = [visit.open(view, ".card.loaded")[0] for view in views]
        pages[0].wait_for_timeout(2 * SETTLE_SECONDS * 1000)
        server_share, page_share = _shares(server, pages[0], seconds)
        visit.context.close()
    case = f"two pages on {len(visit.runs)} runs that are over"
    append("board", f"{case}: processor of the server", "%", [100 * server_share])
    append("board", f"{case}: processor of the browser", "%", [100 * page_share])


def training(browser: Browser, folder: Path, pairs: int, seconds: float) -> None:
    """Ticks per second of one training, in turns with and without a page open on it."""
    for threads in (1, 2):
        shutil.rmtree(folder, ignore_errors=True)
        spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        used: list[tuple[float, float]] = []
        with writing([(folder / "training", "train", threads)]):
            time.sleep(SETTLE_SECONDS)
            for pair in range(pairs):
                for opened in ((True, False), (False, True))[pair % 2]:
                    turn = _beside(browser, folder, seconds, used) if opened else _alone(seconds)
                    spans[opened].append(turn)
        ended = times(folder / "training")
        rates = {
            opened: np.array([np.sum((ended >= a) & (ended < b)) / (b - a) for a, b in own])
            for opened, own in spans.items()
        }
        case = f"training of a small MLP in {threads} of 2 threads"
        append("board", f"{case}, alone", "ticks/s", list(rates[False]))
        ratios = list(rates[True] / rates[False])
        append("board", f"{case}, server and page beside over alone", "x", ratios)
        servers, browsers = zip(*used, strict=True)
        append("board", f"{case}: processor of the server", "%", [100 * each for each in servers])
        append("board", f"{case}: processor of the browser", "%", [100 * each for each in browsers])
        other = rates[False][1::2] / rates[False][: len(rates[False]) // 2 * 2 : 2]
        append("board", f"{case}, alone over alone", "x", list(other))


def _alone(seconds: float) -> tuple[float, float]:
    """From when until when the training ran alone."""
    time.sleep(SETTLE_SECONDS)
    begun = time.time()
    time.sleep(seconds)
    return begun, time.time()


def _beside(
    browser: Browser, folder: Path, seconds: float, used: list[tuple[float, float]]
) -> tuple[float, float]:
    """The same beside a page; `used` gets the shares of a core of the server and the browser."""
    with board(folder) as (address, server):
        visit = Visit(browser, address)
        page, _ = visit.open(f"metrics?run={visit.runs['training']}", f"{CHART}.loaded")
        page.wait_for_timeout(SETTLE_SECONDS * 1000)
        begun = time.time()
        used.append(_shares(server, page, seconds))
        ended = time.time()
        visit.context.close()
    return begun, ended


def _shares(server: psutil.Process, page: Page, seconds: float) -> tuple[float, float]:
    """What the server and the browser take of a core meanwhile."""
    before = processor_seconds([server]), processor_seconds(_browser())
    begun = time.monotonic()
    page.wait_for_timeout(seconds * 1000)
    took = time.monotonic() - begun
    after = processor_seconds([server]), processor_seconds(_browser())
    return (after[0] - before[0]) / took, (after[1] - before[1]) / took


def processor_seconds(processes: Iterable[psutil.Process]) -> float:
    """The processor time that processes have taken until now."""
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def _browser() -> list[psutil.Process]:
    """The processes of the browser that this process has started."""
    family = psutil.Process().children(recursive=True)
    return [each for each in family if "chrom" in each.name()]
