"""What watching adds to the steps of a tiny MLP: two hidden layers of 512, as in TraceML's own test.

Trained on a processor, with a batch of 16, beside the same without anything: phases and loss with
the clock, by hand and watched; phases with TraceML, manual and automatic. Each is in a process of
its own; they take turns. What "nothing again" adds is what the measurement is worth.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _rows import append
from _traceml import start_traceml
from _workers import Worker

from metronorm.clock import Clock
from metronorm.clock.hooks import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    Run = Callable[[int], list[int]]
    Batch = tuple[torch.Tensor, torch.Tensor]

ROUNDS, STEPS = 20, 60
WIDTH, CLASSES, BATCH = 512, 1000, 16


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        team = {}
        for name, make in CONTENDERS.items():
            team[name] = Worker(make, Path(folder) / name.replace(" ", "-"))
            stack.callback(team[name].close)
        times: dict[str, list[list[int]]] = {name: [] for name in team}
        for turn in range(ROUNDS + 1):
            for name, worker in team.items():
                spent = worker.ask(STEPS)
                if turn:
                    times[name].append(spent)
        stack.close()
    medians = {name: [statistics.median(turn) for turn in turns] for name, turns in times.items()}
    plain = medians.pop("nothing")
    append("clock", "tiny MLP, a step with nothing", "ms", [ns / 1e6 for ns in plain])
    for name, turns in medians.items():
        added = [(ns - floor) / 1e6 for ns, floor in zip(turns, plain, strict=True)]
        append("clock", f"tiny MLP, {name}, added to a step", "ms", added)


class Training:
    """The model and what trains it."""

    def __init__(self) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, CLASSES),
        )
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.batch = torch.randn(BATCH, WIDTH), torch.randint(CLASSES, (BATCH,))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch

    def step(self, batch: Batch) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss: torch.Tensor = self.loss(self.model(batch[0]), batch[1])
        loss.backward()
        self.optimizer.step()
        return loss


def timed(step: Callable[[], object]) -> Run:
    def run(steps: int) -> list[int]:
        now = time.perf_counter_ns
        spent = []
        begin = now()
        for _ in range(steps):
            step()
            end = now()
            spent.append(end - begin)
            begin = end
        return spent

    return run


def nothing(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    batches = iter(training)
    return timed(lambda: training.step(next(batches)))


def by_hand(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    clock = stack.enter_context(Clock(folder / "run", progress=False, budget=1e9))
    batches = clock.ticks(training)

    def step() -> None:
        inputs, targets = next(batches)
        with clock.phase("forward"):
            loss = training.loss(training.model(inputs), targets)
        with clock.phase("backward"):
            training.optimizer.zero_grad()
            loss.backward()
        with clock.phase("update"):
            training.optimizer.step()
        clock.log(loss=loss)

    return timed(step)


def watched(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    clock = stack.enter_context(Clock(folder / "run", progress=False, budget=1e9))
    stack.enter_context(Watch(clock, training.model, training.optimizer, training))
    batches = iter(training)
    return timed(lambda: clock.log(loss=training.step(next(batches))))


def traced(mode: str, folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    peer = start_traceml(folder, stack, mode)
    batches: Iterator[Batch] = iter(training)
    if mode == "manual":
        peer.wrap_forward(training.model)
        peer.wrap_optimizer(training.optimizer)
        batches = iter(peer.wrap_dataloader_fetch(training))
        inner = training.loss
        training.loss = lambda *pair: peer.wrap_backward(inner(*pair))

    def step() -> None:
        with peer.trace_step(training.model):
            training.step(next(batches))

    return timed(step)


CONTENDERS: dict[str, Callable[[Path, contextlib.ExitStack], Run]] = {
    "nothing": nothing,
    "nothing again": nothing,
    "metronorm Clock by hand": by_hand,
    "metronorm Clock.watch": watched,
    "TraceML manual": functools.partial(traced, "manual"),
    "TraceML auto": functools.partial(traced, "auto"),
}
