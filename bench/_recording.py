"""Ticks that are recorded in a worker, with the clock or a peer: how long recording each takes."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from typing import TYPE_CHECKING, Any

from _traceml import start_traceml
from _trackers import METRICS

from metronorm.clock import Clock

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from pathlib import Path

    from _trackers import Tracker

    Work = Callable[[], int]  # the nanoseconds it took
    Record = Callable[[Work], int]  # records a tick around it; what it has returned
    Run = Callable[[int, float], list[int]]


def bare(folder: Path, stack: contextlib.ExitStack) -> Run:
    return timed(lambda work: work())


def metronorm(folder: Path, stack: contextlib.ExitStack) -> Run:
    """All phases of all ticks, whatever that costs."""
    return clocked(stack.enter_context(Clock(folder / "run", progress=False, budget=1e9)))


def metronorm_by_default(folder: Path, stack: contextlib.ExitStack) -> Run:
    return clocked(stack.enter_context(Clock(folder / "run", progress=False)))


def clocked(clock: Clock) -> Run:
    loop = clock.ticks(iter(int, 1))

    def record(work: Work) -> int:
        with clock.phase("forward"):
            worked = work()
        with clock.phase("backward"):
            pass
        with clock.phase("update"):
            pass
        clock.log(**METRICS)
        next(loop)  # the fourth phase, `data`, is here
        return worked

    # a turn begins with the end of the tick that was open since the last one
    return timed(record, begin=lambda: next(loop))


def tracked(tracker: Tracker, folder: Path, stack: contextlib.ExitStack) -> Run:
    write = tracker(folder, stack)
    steps = itertools.count(1)

    def record(work: Work) -> int:
        worked = work()
        write(next(steps), METRICS)
        return worked

    return timed(record)


def traceml(folder: Path, stack: contextlib.ExitStack) -> Run:
    import torch

    class Nothing(torch.nn.Module):
        def forward(self, work: Work) -> int:
            return work()

        def backward(self) -> None: ...

        def step(self) -> None: ...

    peer = start_traceml(folder, stack, "manual")
    model, optimizer, loss = peer.wrap_forward(Nothing()), peer.wrap_optimizer(Nothing()), Nothing()
    batches = iter(peer.wrap_dataloader_fetch(iter(int, 1)))

    def record(work: Work) -> int:
        with peer.trace_step(model):
            next(batches)
            worked: int = model.forward(work)
            peer.wrap_backward(loss).backward()
            optimizer.step()
        return worked

    return timed(record)


def timed(record: Record, begin: Callable[[], Any] = lambda: None) -> Run:
    """Ticks one after the other."""

    def run(ticks: int, seconds: float) -> list[int]:
        """Nanoseconds of each, but for those of the computation, which takes about `seconds`."""
        now = time.perf_counter_ns
        work = computation(seconds) if seconds else nothing
        spent = []
        begin()
        before = now()
        for _ in range(ticks):
            worked = record(work)
            after = now()
            spent.append(after - before - worked)
            before = after
        return spent

    return run


def nothing() -> int:
    return 0


@functools.cache
def computation(seconds: float) -> Work:
    """Products of matrices, which take about so long."""
    import numpy as np

    now = time.perf_counter_ns
    matrix = np.random.default_rng(0).random((256, 256), dtype=np.float32)
    product = np.empty_like(matrix)
    times = 1

    def work() -> int:
        begin = now()
        for _ in range(times):
            np.matmul(matrix, matrix, out=product)
        return now() - begin

    times = max(1, round(seconds * 1e9 / statistics.median(work() for _ in range(100))))
    return work
