"""Eight hours of a run before an open board, in some minutes: is the memory of all sides flat?

The run is written faster, and the board's server and page take their waits shorter by the same
factor, as far as two cores allow: the updates of the charts are counted. Memory of the page is that
of its JavaScript after a collection.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

from _board_visit import Visit, board
from _board_writer import times, writing
from _rows import append

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

HOURS, TICKS_PER_SECOND, METRICS = 8, 10, 20
MARKS = {"quarter": 0.25, "half": 0.5, "three quarters": 0.75, "end": 1.0}
FASTER = """
window.updates = 0
const wait = window.setTimeout.bind(window)
window.setTimeout = (call, ms = 0, ...more) => wait(call, ms / FACTOR, ...more)
const ask = window.fetch.bind(window)
window.fetch = (...all) => { window.updates += 1; return ask(...all) }
"""


def soak(browser: Browser, folder: Path, minutes: float) -> None:
    """One page on the metrics of the run, one on the list of runs."""
    shutil.rmtree(folder, ignore_errors=True)
    factor = HOURS * 60 / minutes
    run = folder / "day"
    shorter = f"import metronorm.board.stream as s; s.LOOK_SECONDS /= {factor}"
    with (
        writing([(run, TICKS_PER_SECOND * factor, METRICS)]),
        board(folder, before=shorter) as (address, server),
    ):
        visit = Visit(browser, address)
        visit.context.add_init_script(FASTER.replace("FACTOR", str(factor)))
        views = {"metrics": f"metrics?run={visit.runs['day']}", "runs": "runs"}
        pages = {name: visit.open(view, ".card.loaded")[0] for name, view in views.items()}
        begun = time.monotonic()
        for mark, share in MARKS.items():
            rest = begun + share * minutes * 60 - time.monotonic()
            next(iter(pages.values())).wait_for_timeout(max(0, rest * 1000))
            append(
                "board",
                f"soak of {HOURS} h, {mark}: server",
                "MiB",
                [server.memory_info().rss / 2**20],
            )
            for name, page in pages.items():
                _report(f"soak of {HOURS} h, {mark}: page of {name}", page)
        visit.context.close()
    append("board", f"soak of {HOURS} h: ticks", "ticks", [len(times(run))])


def _report(case: str, page: Page) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    found: dict[str, Any] = {
        each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]
    }
    session.detach()
    append("board", case, "MiB", [found["JSHeapUsedSize"] / 2**20])
    append("board", f"{case}, nodes", "nodes", [found["Nodes"]])
    append("board", f"{case}, listeners", "listeners", [found["JSEventListeners"]])
    append("board", f"{case}, requests until then", "requests", [page.evaluate("window.updates")])
