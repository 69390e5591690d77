"""What recording a tick costs the training thread, beside peers, interleaved in one process.

A tick here does nothing but record: four phases and five metrics with the clock; five scalars with
TensorBoard's SummaryWriter and trackio, which have no phases. The bare loop is subtracted.

    python bench/clock.py
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _rows import append

from metronorm.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS, TICKS = 40, 500

METRICS = {
    "loss": 1.2345678,
    "tokens": 12_288,
    "learning_rate": 0.000987,
    "gradient_norm": 0.4321,
    "accuracy": 0.8765,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ["TRACKIO_DIR"] = str(Path(folder, "trackio"))
        contenders: dict[str, Callable[[int], list[int]]] = {
            "bare loop": bare,
            "metronorm Clock": metronorm(Path(folder), stack),
            "tensorboard SummaryWriter": tensorboard(Path(folder), stack),
            "trackio": trackio(stack),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(ROUNDS + 1):
            for name, run in contenders.items():
                spent = run(TICKS)
                if turn:  # the first is the warm-up
                    times[name] += [ns / 1e3 for ns in spent]
    floor = statistics.median(times.pop("bare loop"))
    for name, samples in times.items():
        cost = [sample - floor for sample in samples]
        append("clock", f"{name}, per tick", "us", cost)
        p999 = statistics.quantiles(cost, n=1000)[-1]
        append("clock", f"{name}, per tick, 99.9th percentile", "us", [p999])


def bare(ticks: int) -> list[int]:
    now = time.perf_counter_ns
    spent = []
    begin = now()
    for _ in range(ticks):
        end = now()
        spent.append(end - begin)
        begin = end
    return spent


def metronorm(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    clock = stack.enter_context(Clock(folder / "run", progress=False))
    loop = clock.ticks(iter(int, 1))

    def run(ticks: int) -> list[int]:
        now = time.perf_counter_ns
        spent = []
        next(loop)  # ends the tick that was open since the last round
        begin = now()
        for _ in range(ticks):
            with clock.phase("forward"):
                pass
            with clock.phase("backward"):
                pass
            with clock.phase("update"):
                pass
            clock.log(**METRICS)
            next(loop)  # the fourth phase, `data`, is here
            end = now()
            spent.append(end - begin)
            begin = end
        return spent

    return run


def tensorboard(folder: Path, stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))
    stack.callback(writer.close)

    def record(step: int) -> None:
        for name, value in METRICS.items():
            writer.add_scalar(name, value, step)

    return recording(record)


def trackio(stack: contextlib.ExitStack) -> Callable[[int], list[int]]:
    import trackio as peer

    peer.init(project="bench", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    stack.callback(peer.finish)
    return recording(lambda step: peer.log(METRICS, step=step))


def recording(record: Callable[[int], Any]) -> Callable[[int], list[int]]:
    step = 0

    def run(ticks: int) -> list[int]:
        nonlocal step
        now = time.perf_counter_ns
        spent = []
        begin = now()
        for _ in range(ticks):
            step += 1
            record(step)
            end = now()
            spent.append(end - begin)
            begin = end
        return spent

    return run


if __name__ == "__main__":
    main()
