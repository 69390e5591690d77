"""What a checkpoint costs the training: the copy, and the ticks during which it is written.

One training of an MLP of 10 M parameters by AdamW. Stretches with one checkpoint and without any
take turns; one that begins with a checkpoint is long enough to have all of its writing. So the
difference of their times is all that the checkpoint costs, neighbouring ticks included. The share
of wall time is that of one checkpoint a minute.

`--same-thread` shows what it would cost if the training thread wrote the files itself.

python bench/checkpoint_cost.py [--rounds 30] [--ticks 30] [--threads 2] [--same-thread]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812
from _rows import append
from torch import Tensor, nn

from metronorm.data import Shuffled
from metronorm.runs import open_run
from metronorm.train import Hook, OptimizerConfig, Task, TrainConfig, saving, train

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "checkpoint_cost"
WIDTH, LAYERS, BATCH = 1024, 10, 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--ticks", type=int, default=30, help="of a stretch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--same-thread", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    name = f"MLP of 10 M, AdamW, {arguments.threads} threads"
    if arguments.same_thread:
        vars(saving)["in_background"] = in_this_thread
        name = f"{name}, written by the training thread"
    measure(name, arguments.rounds, arguments.ticks)


def measure(name: str, rounds: int, ticks: int) -> None:
    """Append milliseconds, bytes and the share of wall time."""
    ends: list[float] = []  # of the stretches
    config = TrainConfig(
        ticks=2 * (rounds + 1) * ticks + 1,
        checkpoint_every=2 * ticks,
        batch_size=BATCH,
        precision="fp32",
        allocator="keep",
        device="cpu",
        evaluate_every=2**62,
        optimizer=OptimizerConfig(schedule="constant", warmup=0.0),
    )
    hook = Hook(ticks, lambda moment: ends.append(time.perf_counter()))
    with tempfile.TemporaryDirectory() as folder:
        train(task(hook), config, f"{folder}/run")
        run = open_run(f"{folder}/run")
        saved = [
            msgspec.json.decode(row["fields"])
            for row in run.events().rows()
            if row["event"] == "checkpoint"
        ]
        rows = run.ticks("full").rows()
    # a stretch of 2 N ticks ends as its checkpoint becomes due, which is in the one that follows
    took = [(end - begin) * 1e3 for begin, end in itertools.pairwise(ends)]
    without, having = took[2::2], took[1::2][1:]
    pairs = list(zip(having, without, strict=False))
    added = [one - other for one, other in pairs]
    append(NAME, f"{name}, a tick", "ms", [each / ticks for each in without])
    append(NAME, f"{name}, added by a checkpoint", "ms", added)
    share = [each / 60e3 * 100 for each in added]
    append(NAME, f"{name}, share of wall time at one a minute", "%", share)
    paid = [
        sum(row["checkpoint_ns"] or 0 for row in rows[begin : begin + 2 * ticks]) / 1e6
        for begin in range(2 * ticks, len(rows) - 1, 2 * ticks)
    ]
    append(NAME, f"{name}, phase checkpoint", "ms", paid)
    append(NAME, f"{name}, writing", "ms", [row["seconds"] * 1e3 for row in saved[1:-1]])
    append(NAME, f"{name}, the copy", "MB", [row["bytes"] / 1e6 for row in saved[1:-1]])


def task(hook: Hook) -> Task:
    """Ten linear layers, on numbers that mean nothing."""
    inputs, labels = torch.randn(4096, WIDTH).numpy(), torch.randint(10, (4096,)).numpy()
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(LAYERS)]
    return Task(
        model=lambda: nn.Sequential(*layers, nn.Linear(WIDTH, 10)),
        batches=Shuffled(inputs, labels, seed=0),
        loss=lambda model, batch: cross_entropy(model, batch),
        count=lambda batch: len(batch[1]),
        hooks=[hook],
    )


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def in_this_thread(work: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(work())
    return future


if __name__ == "__main__":
    main()
