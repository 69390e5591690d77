"""Our board and others, each filmed on the same numbers: see `_board_film` and `_board_peers`.

A server is cold that has just begun to answer, and the browser's cache is empty; warm is the second
page of both. TensorBoard reads a long run for some time: its page is loaded again until it has got
the last tick.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING

from _board_data import odd_ticks
from _board_film import film, visitor
from _board_peers import PEERS, Peer, memory_mib
from _board_visit import TOKEN, board
from _rows import append

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psutil
    from playwright.sync_api import Browser, BrowserContext

OURS = "Metronorm"
REPEATS = 3

Server = contextlib.AbstractContextManager[tuple[str, "psutil.Process"]]


def long(browser: Browser, runs: Path, kept: Path, name: str, ticks: int) -> None:
    """One long run: the first chart cold and warm, and whether its odd ticks were sent."""
    start, page, peer = _prepared(name, runs, kept)
    metrics = "of loss alone" if name == "Aim" else "x 20"
    case = f"{ticks:,} ticks {metrics}, filmed, {name}"
    cold, warm, memory = [], [], []
    for _ in range(REPEATS):
        with start() as (address, process), visitor(browser) as context:
            _login(context, name, address)
            # ours sends fewer points than ticks, and the last one always
            last = None if name == OURS else ticks
            first = film(context, address + page, peer.chart, last_tick=last)
            again = film(context, address + page, peer.chart)
            cold.append(first.seconds * 1000)
            warm.append(again.seconds * 1000)
            memory.append(memory_mib(process))
    first.save(kept / f"{name}-long.png")
    append("board", f"{case}: first chart, cold server", "ms", cold)
    append("board", f"{case}: first chart, warm", "ms", warm)
    append("board", f"{case}: memory of the server", "MiB", memory)
    for what, tick, words in zip(
        ("spike", "NaN"), odd_ticks(ticks), ("highest 100", "NaN 1"), strict=True
    ):
        # ours sends pixels instead of ticks, and says what it has drawn and counted
        seen = words in first.html if name == OURS else first.has_tick(tick)
        append("board", f"{case}: the {what} can be seen (1: yes, 0: no)", "", [float(seen)])


def several(browser: Browser, runs: Path, kept: Path, name: str) -> None:
    """Fifty runs of 2,000 ticks in one chart."""
    start, page, peer = _prepared(name, runs, kept)
    if name == OURS:
        page = "#metrics?filter=loss&" + "&".join(f"shown={run}" for run in _ids(runs))
    found = []
    for _ in range(REPEATS):
        with start() as (address, process), visitor(browser) as context:
            _login(context, name, address)
            seen = film(context, address + page, peer.chart)
            found.append(seen.seconds * 1000)
            memory = memory_mib(process)
    seen.save(kept / f"{name}-fifty.png")
    case = f"50 runs x 2,000 ticks in one chart, filmed, {name}"
    append("board", case, "ms", found)
    append("board", f"{case}: memory of the server", "MiB", [memory])


def _prepared(name: str, runs: Path, kept: Path) -> tuple[Callable[[], Server], str, Peer]:
    """What starts the server, the page, and where its chart is; the files are written once."""
    if name == OURS:
        (first, *_) = _ids(runs)
        ours = Peer(lambda *_: None, board, f"#metrics?run={first}", ".card .plot")
        return (lambda: _cold(runs)), ours.page, ours
    peer = PEERS[name]
    folder = kept / f"{name}-{runs.name}"
    if not folder.exists():
        print(f"writing {folder}")
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        for run in sorted(runs.iterdir()):
            peer.write(run, new)
        new.rename(folder)
    return (lambda: peer.serve(folder)), peer.page, peer


@contextlib.contextmanager
def _cold(runs: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Our board, without what it keeps of long runs."""
    for run in runs.iterdir():
        shutil.rmtree(run / "board", ignore_errors=True)
    with board(runs) as (address, process):
        yield address.partition("#")[0], process


def _login(context: BrowserContext, name: str, address: str) -> None:
    if name == OURS:
        answer = context.request.post(
            f"{address}api/login", data={"token": TOKEN}, headers={"Origin": address.rstrip("/")}
        )
        assert answer.ok, answer.status


def _ids(runs: Path) -> list[str]:
    return [json.loads((run / "run.json").read_text())["id"] for run in sorted(runs.iterdir())]
