"""What a mirror costs: the time of a tick, and processor time, with and without it.

A tick computes for 10 ms (products of matrices) and logs five metrics and three phases. The sides
take turns of 100 ticks in one process, each with a run of its own. Whatever a mirror's thread takes
from the loop is in its ticks. The end of a run is a row of its own: the rest is written then, and
what the clock has sealed is read from the run.

    python bench/mirror.py                        tensorboard
    python bench/mirror.py tensorboard trackio    also others that are installed
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _recording import computation
from _rows import append
from _trackers import METRICS

from metronorm.clock import Clock
from metronorm.integrations.mirroring import mirroring
from metronorm.integrations.trackers import TRACKERS

ROUNDS, TICKS, SECONDS = 10, 100, 0.01
ALONE = "no mirror"


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = sys.argv[1:] or ["tensorboard"]
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise SystemExit(f"no such mirror: {unknown[0]}; there are {', '.join(TRACKERS)}")
    sides = {ALONE: [], **{name: [name] for name in names}}
    ticks: dict[str, list[float]] = {side: [] for side in sides}
    spent: dict[str, list[float]] = {side: [] for side in sides}
    ends: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TRACKIO_DIR", f"{folder}/trackio")
        os.environ.setdefault("WANDB_MODE", "offline")
        for turn in range(ROUNDS + 1):
            for side, mirrors in sides.items():
                run = Path(folder, f"{side} {turn}".replace(" ", "-"))
                took, used, end = record(run, mirrors)
                if turn:  # the first loads packages
                    ticks[side] += took
                    spent[side].append(used)
                    ends[side].append(end / 1e3)
    floor, floor_used = statistics.median(ticks[ALONE]), statistics.median(spent[ALONE])
    append("mirror", f"{ALONE}, tick without its computation", "us", ticks[ALONE])
    for name in names:
        append("mirror", f"{name}, added to a tick", "us", [each - floor for each in ticks[name]])
        added = [each - floor_used for each in spent[name]]
        append("mirror", f"{name}, processor time added per tick, all threads", "us", added)
        added = [each - statistics.median(ends[ALONE]) for each in ends[name]]
        append("mirror", f"{name}, processor time added at the end of a run", "ms", added)


def record(run: Path, mirrors: list[str]) -> tuple[list[float], float, float]:
    """Without the computation, in us: each tick, processor time per tick, and that of the end."""
    work = computation(SECONDS)
    took, worked_ns = [], 0
    begin = time.process_time_ns()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mirroring(run, mirrors))
        clock = stack.enter_context(Clock(run, progress=False))
        before = time.perf_counter_ns()
        for _ in clock.ticks(range(TICKS)):
            with clock.phase("forward"):
                worked = work()
            with clock.phase("backward"):
                pass
            clock.log(**METRICS)
            after = time.perf_counter_ns()
            took.append((after - before - worked) / 1e3)
            worked_ns += worked
            before = after
        used = time.process_time_ns() - begin - worked_ns
        begin = time.process_time_ns()
    return took, used / TICKS / 1e3, (time.process_time_ns() - begin) / 1e3


if __name__ == "__main__":
    main()
