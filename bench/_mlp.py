"""What watching adds to the steps of a tiny MLP: two hidden layers of 512, as TraceML tests.

Trained on a processor, with a batch of 16: phases and loss with the clock, by hand and watched;
phases with TraceML, manual and automatic. Each in a process of its own, in turns of a few steps
with and without it, of the same model. (What TraceML's automatic mode has patched stays patched,
and hands on what is outside of its steps.) What "nothing" adds is what the measurement is worth.
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
from _traceml import start_traceml
from _workers import Worker

from metronorm.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    Step = Callable[[], object]
    Switch = Callable[[], object]
    Batch = tuple[torch.Tensor, torch.Tensor]
    Run = Callable[[int], list[tuple[float, float]]]

TURNS, STEPS = 60, 20  # the first two of a turn do not count
WIDTH, CLASSES, BATCH = 512, 1000, 16


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for name, make in CONTENDERS.items():
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(make, Path(folder) / "worker")
            worker.ask(TURNS // 10)
            pairs = worker.ask(TURNS)
            worker.close()
        if name == "nothing":
            append("clock", "tiny MLP, a step", "ms", [plain / 1e6 for plain, _ in pairs])
        added = [(whole - plain) / 1e6 for plain, whole in pairs]
        append("clock", f"tiny MLP, {name}, added to a step", "ms", added)


class Training:
    """The model and what trains it; iterated, its batches."""

    def __init__(self) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU()]
        self.model = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
        self.loss: Callable[..., Any] = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.batch = torch.randn(BATCH, WIDTH), torch.randint(CLASSES, (BATCH,))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch

    def step(self, batch: Batch) -> Any:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(batch[0]), batch[1])
        loss.backward()
        self.optimizer.step()
        return loss


def turns(training: Training, step: Step, on: Switch, off: Switch) -> Run:
    """In turns, the median time of a step without and with what is switched on, in nanoseconds."""
    batches = iter(training)

    def plain() -> object:
        return training.step(next(batches))

    def run(times: int) -> list[tuple[float, float]]:
        pairs = []
        for _ in range(times):
            before = median(plain)
            on()
            after = median(step)
            off()
            pairs.append((before, after))
        return pairs

    return run


def median(step: Step) -> float:
    now = time.perf_counter_ns
    spent = []
    begin = now()
    for _ in range(STEPS):
        step()
        end = now()
        spent.append(end - begin)
        begin = end
    return statistics.median(spent[2:])


def nowhere() -> None: ...


def nothing(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    batches = iter(training)
    return turns(training, lambda: training.step(next(batches)), nowhere, nowhere)


def by_hand(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    clock = stack.enter_context(Clock(folder / "run", progress=False, budget=1e9))
    batches = clock.ticks(training)

    def step() -> None:
        inputs, targets = next(batches)
        training.optimizer.zero_grad()
        with clock.phase("forward"):
            loss = training.loss(training.model(inputs), targets)
        with clock.phase("backward"):
            loss.backward()
        with clock.phase("update"):
            training.optimizer.step()
        clock.log(loss=loss)

    return turns(training, step, nowhere, nowhere)


def watched(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    clock = stack.enter_context(Clock(folder / "run", progress=False, budget=1e9))
    hooks = contextlib.ExitStack()
    batches: Iterator[Batch]

    def on() -> None:
        nonlocal batches
        hooks.enter_context(clock.watch(training.model, training.optimizer, training))
        batches = iter(training)

    def step() -> None:
        clock.log(loss=training.step(next(batches)))

    return turns(training, step, on, hooks.close)


def traced_by_hand(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    model, optimizer, loss = training.model, training.optimizer, training.loss
    peer = start_traceml(folder, stack, "manual")
    forward, update = peer.wrap_forward(model).forward, peer.wrap_optimizer(optimizer).step
    batches = iter(peer.wrap_dataloader_fetch(training))

    def on() -> None:
        model.forward, optimizer.step = forward, update  # type: ignore[method-assign]
        training.loss = lambda *pair: peer.wrap_backward(loss(*pair))

    def off() -> None:
        del model.forward, optimizer.step
        training.loss = loss

    def step() -> None:
        with peer.trace_step(model):
            training.step(next(batches))

    off()
    return turns(training, step, on, off)


def traced(folder: Path, stack: contextlib.ExitStack) -> Run:
    training = Training()
    peer = start_traceml(folder, stack, "auto")
    batches = iter(training)

    def step() -> None:
        with peer.trace_step(training.model):
            training.step(next(batches))

    return turns(training, step, nowhere, nowhere)


CONTENDERS: dict[str, Callable[[Path, contextlib.ExitStack], Run]] = {
    "nothing": nothing,
    "metronorm Clock by hand": by_hand,
    "metronorm Clock.watch": watched,
    "TraceML manual": traced_by_hand,
    "TraceML auto": traced,
}
