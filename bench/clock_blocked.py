"""What recording a tick costs when the disk does not answer: real writes that block.

Ticks of about 1 ms of real work, first with a healthy disk, then with one that hangs, then when it
answers again. A library that is preloaded (`_hang.cpp`, compiled here) holds write, writev and
pwrite back on the files of the one that records, as long as a flag is there: until the 20,000 ticks
are done, for those that wait for their disk 40 s. Time is that of the tick less that of the work.
Of the clock also: how many ticks it had to drop, and whether all others are there afterwards.

    python bench/clock_blocked.py
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _recording import clocked, tracked
from _rows import append
from _trackers import TRACKERS
from _workers import Worker

from metronorm.clock import Clock
from metronorm.runs import open_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from _workers import Make

OURS = "metronorm Clock"
FILES = {
    OURS: "*/_live.jsonl",
    "tensorboard SummaryWriter": "*/events.out.tfevents.*",
    "trackio": "*.db*",
}
HEALTHY_TICKS, HANGING_TICKS = 5_000, 20_000
WORK_SECONDS = 0.001
LONGEST_SECONDS = 40.0


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        library = compile_hang(Path(folder))
        for name, files in FILES.items():
            place = Path(folder) / name.replace(" ", "-")
            flag = Path(folder) / "hangs"
            ours = name == OURS
            make: Make = with_clock if ours else functools.partial(with_tracker, TRACKERS[name])
            with preloaded(library, files, flag):
                worker = Worker(make, place)
            finished, dropped = measure(name, worker, flag)
            worker.close()
            if ours:
                check(place / "run", finished, dropped)


def measure(name: str, worker: Worker, flag: Path) -> tuple[int, int]:
    """Append rows; how many ticks it has done and dropped in all."""
    worker.ask(100)
    finished = dropped = 0
    for disk, ticks in (
        ("healthy disk", HEALTHY_TICKS),
        ("disk that hangs", HANGING_TICKS),
        ("disk that answers again", HEALTHY_TICKS),
    ):
        answers = threading.Timer(LONGEST_SECONDS, flag.unlink, [True])
        if disk == "disk that hangs":
            flag.touch()
            answers.start()
        spent, finished, dropped = worker.ask(ticks)
        answers.cancel()
        flag.unlink(missing_ok=True)
        costs = [ns / 1e3 for ns in spent]
        append("clock_blocked", f"{name}, {disk}, per tick", "us", costs)
        p999 = statistics.quantiles(costs, n=1000, method="inclusive")[-1]
        append("clock_blocked", f"{name}, {disk}, 99.9th percentile", "us", [p999])
        append("clock_blocked", f"{name}, {disk}, longest", "us", [max(costs)])
    return finished, dropped


def check(directory: Path, finished: int, dropped: int) -> None:
    """What is there of the clock's ticks."""
    query = "select count(*), count(distinct tick) from ticks"
    ((rows, ticks),) = open_run(directory).ticks().sql(query).fetchall()
    append("clock_blocked", f"{OURS}, dropped of {finished:,} ticks", "ticks", [dropped])
    lost = finished - dropped - ticks
    append("clock_blocked", f"{OURS}, neither dropped nor there", "ticks", [lost])
    append("clock_blocked", f"{OURS}, there twice", "ticks", [rows - ticks])


def compile_hang(folder: Path) -> Path:
    library = folder / "hang.so"
    source = Path(__file__).with_name("_hang.cpp")
    command = ["g++", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return library


@contextlib.contextmanager
def preloaded(library: Path, files: str, flag: Path) -> Any:
    names = {"LD_PRELOAD": str(library), "HANG_FILES": files, "HANG_WHILE": str(flag)}
    os.environ.update(names)
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


# --- what runs in the worker --------------------------------------------------------------------


def with_clock(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], Any]:
    clock = stack.enter_context(Clock(folder / "run", progress=False, budget=1e9))
    run = clocked(clock)
    return lambda ticks: (run(ticks, WORK_SECONDS), clock.tick - 1, clock.dropped)


def with_tracker(tracker: Any, folder: Path, stack: contextlib.ExitStack) -> Callable[[int], Any]:
    run = tracked(tracker, folder, stack)
    return lambda ticks: (run(ticks, WORK_SECONDS), 0, 0)


if __name__ == "__main__":
    main()
