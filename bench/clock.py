"""What recording a tick costs, beside peers, each in a process of its own; they take turns.

A tick is an empty one that is recorded: four phases and five metrics with the clock; five scalars
with TensorBoard's SummaryWriter, trackio, W&B, Aim, MLflow and Lightning's CSVLogger, which have no
phases; four phases with TraceML (manual, its aggregator beside), which has no metrics. A bare loop
is subtracted. The clock is as it is by default, sampling the machine once a second (what the peers
would sample is off), but for its budget: a share of a tick that does nothing is nothing, and phases
would not be measured. Then the same in ticks that compute for 10 ms, which find the caches cold:
the time of the tick less that of the computation. And the clock alone, its budget as it is by
default, in such ticks: what it has put on record as its own cost, and on how many ticks it has
measured phases.

Processor time is that of all threads and children, until they have nothing left to do, less what
they use when nothing is recorded, which is a row of its own. Making Parquet of what is recorded, in
a process beside, is in bench/clock_reading.py. `_mlp.py` has the last rows: what is added to the
steps of a tiny MLP.

    python bench/clock.py
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import _mlp
from _recording import bare, metronorm, metronorm_by_default, traceml, tracked
from _rows import append
from _trackers import TRACKERS
from _workers import Worker

from metronorm.runs import open_run

if TYPE_CHECKING:
    from _workers import Make

ROUNDS = 20
TURN_SECONDS, FEWEST, MOST = 0.1, 100, 1500  # of empty ticks
COMPUTE_SECONDS = 0.01
COMPUTE_ROUNDS, COMPUTE_TICKS = 10, 30
ALONE_TICKS = 1280  # of which the budget has settled in the latter half
IDLE_SECONDS = 5.0

OURS, BARE = "metronorm Clock", "bare loop"


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        team = {}
        for name, make in CONTENDERS.items():
            team[name] = Worker(make, Path(folder) / name.replace(" ", "-"))
            stack.callback(team[name].close)
        idle = rest(team)
        race(team, idle)
        compute(team)
        stack.close()
        alone(Path(folder) / "alone")
    _mlp.main()


def rest(team: dict[str, Worker]) -> dict[str, float]:
    """Processor seconds a second of those who do nothing."""
    for worker in team.values():
        worker.ask(FEWEST, 0.0)
    time.sleep(2.0)  # what they had to do after that
    begin = time.perf_counter()
    before = {name: worker.processor_ns() for name, worker in team.items()}
    time.sleep(IDLE_SECONDS)
    passed_ns = (time.perf_counter() - begin) * 1e9
    idle = {
        name: (worker.processor_ns() - before[name]) / passed_ns for name, worker in team.items()
    }
    for name, share in idle.items():
        if name != BARE:
            append("clock", f"{name}, processor per second without a tick", "ms", [share * 1e3])
    return idle


def race(team: dict[str, Worker], idle: dict[str, float]) -> None:
    """Empty ticks: their time, its tail, and processor time."""
    turns = {}
    for name, worker in team.items():
        seconds = statistics.median(worker.ask(FEWEST, 0.0)) / 1e9
        turns[name] = min(max(int(TURN_SECONDS / seconds), FEWEST), MOST)
    times: dict[str, list[float]] = {name: [] for name in team}
    used: dict[str, list[float]] = {name: [] for name in team}
    begun: dict[str, tuple[int, int]] = {}
    for turn in range(ROUNDS + 1):  # the last ends the one before
        for name, worker in team.items():
            moment, spent = time.perf_counter_ns(), worker.processor_ns()
            if turn:
                rested_ns = idle[name] * (moment - begun[name][0])
                used[name].append((spent - begun[name][1] - rested_ns) / turns[name] / 1e3)
            begun[name] = moment, spent
            if turn < ROUNDS:
                times[name] += [ns / 1e3 for ns in worker.ask(turns[name], 0.0)]
    floor = statistics.median(times.pop(BARE))
    idle_us = statistics.median(used.pop(BARE))
    for name, samples in times.items():
        cost = [sample - floor for sample in samples]
        append("clock", f"{name}, per tick", "us", cost)
        append("clock", f"{name}, per tick, 99.9th percentile", "us", [p999(cost)])
        processor = [sample - idle_us for sample in used[name]]
        append("clock", f"{name}, processor per tick, all threads and children", "us", processor)


def compute(team: dict[str, Worker]) -> None:
    """Ticks that compute."""
    times: dict[str, list[float]] = {name: [] for name in team}
    for turn in range(COMPUTE_ROUNDS + 1):
        for name, worker in team.items():
            ticks = COMPUTE_TICKS * (4 if name == OURS else 1)  # it has a tail to show
            spent = worker.ask(ticks, COMPUTE_SECONDS)
            if turn:  # the first finds out how long 10 ms are
                times[name] += [ns / 1e3 for ns in spent]
    floor = statistics.median(times.pop(BARE))
    for name, samples in times.items():
        cost = [sample - floor for sample in samples]
        append("clock", f"{name}, per tick that computes for 10 ms", "us", cost)
    ours = [sample - floor for sample in times[OURS]]
    case = f"{OURS}, per tick that computes for 10 ms, 99.9th percentile"
    append("clock", case, "us", [p999(ours)])


def alone(folder: Path) -> None:
    """What the clock says of itself, as it is by default."""
    worker = Worker(metronorm_by_default, folder)
    worker.ask(FEWEST, COMPUTE_SECONDS)
    worker.ask(ALONE_TICKS, COMPUTE_SECONDS)
    worker.close()
    ticks = open_run(folder / "run").ticks()
    settled = f"tick > (select max(tick) - {ALONE_TICKS // 2} from ticks)"
    rows = ticks.sql(
        f"select clock_ns, wall_ns, unattributed_ns from ticks where {settled}"
    ).fetchall()
    costs = [clock_ns / 1e3 for clock_ns, _, _ in rows]
    case = f"{OURS} by default, what it says it costs in a tick of 10 ms"
    append("clock", case, "us", costs)
    append("clock", f"{case}, 99.9th percentile", "us", [p999(costs)])
    append("clock", f"{case}, share", "%", [row[0] / row[1] * 100 for row in rows])
    measured = sum(unattributed_ns is not None for _, _, unattributed_ns in rows)
    case = f"{OURS} by default, in ticks of 10 ms, those with phases"
    append("clock", case, "%", [measured / len(rows) * 100])


def p999(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=1000, method="inclusive")[-1]


CONTENDERS: dict[str, Make] = {
    BARE: bare,
    OURS: metronorm,
    **{name: functools.partial(tracked, tracker) for name, tracker in TRACKERS.items()},
    "traceml": traceml,
}

if __name__ == "__main__":
    main()
