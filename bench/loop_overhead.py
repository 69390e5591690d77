"""What the one loop costs beside the same work in a loop written by hand.

Same weights, order of the data, optimizer, clipping and precision; no evaluation, no checkpoint. A
hook of the loop gives the other its turn: as many steps, with the batches that the loop has just
had. So both run in one process and on one machine, and that they do the same work is checked: their
losses are equal to the last bit.

The loop records every tick. The loop written by hand keeps its losses in a list.

python bench/loop_overhead.py [--rounds 20] [--threads 2] [--only "tiny net" ...]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from _rows import append
from torch import Tensor, nn
from train_gpt import SHAPES

from metronorm.data import Shuffled
from metronorm.data.config import TextConfig
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.train import Hook, OptimizerConfig, Order, Task, TrainConfig, train
from metronorm.train.batches import to_device
from metronorm.train.optimizers import make_optimizer
from metronorm.train.precision import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metronorm.train import Moment

NAME = "loop_overhead"
CPU = torch.device("cpu")
OPTIMIZER = OptimizerConfig(schedule="constant", warmup=0.0)  # AdamW, clipped
OPTIONS: dict[str, Any] = {"optimizer": OPTIMIZER, "device": "cpu", "allocator": "keep"}


class Case(NamedTuple):
    """What is trained, ticks in a turn, and threads; None: as many as torch takes."""

    task: Task
    config: TrainConfig
    steps: int
    threads: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    for name in arguments.only:
        case = CASES[name]()
        torch.set_num_threads(case.threads or arguments.threads)
        compare(name, case, arguments.rounds)


def compare(name: str, case: Case, rounds: int) -> None:
    """Turns of both; append milliseconds of a tick, and their ratio."""
    torch.manual_seed(0)
    initial = case.task.model()
    by_hand = ByHand(case, deepcopy(initial))
    spent: dict[str, list[float]] = {"loop": [], "by hand": []}
    begin = time.perf_counter()

    def turn(moment: Moment) -> None:
        nonlocal begin
        middle = time.perf_counter()
        by_hand.steps(case.steps)
        end = time.perf_counter()
        if moment.tick > case.steps:  # the first turn builds kernels and the optimizers' state
            spent["loop"].append((middle - begin) / case.steps * 1e3)
            spent["by hand"].append((end - middle) / case.steps * 1e3)
        begin = time.perf_counter()

    task = replace(case.task, model=lambda: initial, hooks=[Hook(case.steps, turn)])
    config = replace(
        case.config, ticks=(rounds + 1) * case.steps, checkpoint_every=2**62, evaluate_every=2**62
    )
    with tempfile.TemporaryDirectory() as folder:
        train(task, config, f"{folder}/run")
        losses = [row["loss"] for row in open_run(f"{folder}/run").ticks().rows()]
    if losses != by_hand.losses:
        raise SystemExit(f"not the same work: {losses[:3]} and {by_hand.losses[:3]}")
    for who, samples in spent.items():
        append(NAME, f"{name}, {who}, a tick", "ms", samples)
    pairs = list(zip(spent["loop"], spent["by hand"], strict=True))
    append(NAME, f"{name}, loop over by hand", "ratio", [loop / hand for loop, hand in pairs])
    added = [(loop - hand) * 1e3 for loop, hand in pairs]
    append(NAME, f"{name}, added to a tick", "µs", added)


class ByHand:
    """What one would write without a loop to call."""

    def __init__(self, case: Case, model: nn.Module) -> None:
        self.task, self.model = case.task, model
        groups = case.task.groups(model, case.config) if case.task.groups else None
        self.optimizer = make_optimizer(model, OPTIMIZER, CPU, groups)
        self.batches = batches(case)
        self.context = autocast(CPU, "bf16" if case.config.precision == "bf16" else "fp32")
        self.losses: list[float] = []

    def steps(self, number: int) -> None:
        for _ in range(number):
            batch = to_device(next(self.batches), CPU)
            with self.context:
                loss = self.task.loss(self.model, batch) * (1 / self.task.count(batch))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append(loss.item())


def batches(case: Case) -> Iterator[Any]:
    """The batches of a case, one after the other, without end."""
    source, size = case.task.batches, case.config.batch_size
    if isinstance(source, Order):
        return (source.take(first, size) for first in itertools.count(0, size))
    return itertools.chain.from_iterable(itertools.repeat(source))


# --- what is trained ------------------------------------------------------------------------------


def gpt(name: str, steps: int) -> Case:
    """A GPT of bench/train_gpt.py on Shakespeare's characters."""
    shape, batch_size = SHAPES[name]
    config = text.Config(
        text=TextConfig(), model=shape, batch_size=batch_size, precision="bf16", **OPTIONS
    )
    task = text.task(config)
    # the config is the case's: the task's own would give it other ticks
    return Case(replace(task, validation=None, config=None), task.config, steps)


def tiny() -> Case:
    """Two linear layers, which take so little time that everything beside them shows."""
    inputs, labels = torch.randn(4096, 64).numpy(), torch.randint(10, (4096,)).numpy()
    task = Task(
        model=lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        batches=Shuffled(inputs, labels, seed=0),
        loss=cross_entropy,
        count=lambda batch: len(batch[1]),
    )
    return Case(task, TrainConfig(batch_size=32, precision="fp32", **OPTIONS), 200, threads=1)


def tiny_iterated() -> Case:
    """The same on a list of batches, which the loop iterates as it does a DataLoader."""
    case = tiny()
    batches = [(torch.randn(32, 64), torch.randint(10, (32,))) for _ in range(128)]
    return case._replace(task=replace(case.task, batches=batches))


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


CASES: dict[str, Callable[[], Case]] = {
    "tiny net": tiny,
    "tiny net, iterable": tiny_iterated,
    "0.8 M": lambda: gpt("0.8 M", steps=10),
    "10 M": lambda: gpt("10 M", steps=2),
}


if __name__ == "__main__":
    main()
