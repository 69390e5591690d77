"""Tokens per second of `metronorm.train` over a plain fp32 PyTorch loop, interleaved.

The same architecture, weights, batches and learning rate for both; that both compute the same
loss is checked first. Ours chooses precision and allocator by itself and runs with its clock; the
allocator is set back whenever the plain loop has its turn.

python bench/train_gpt.py             tokens per second, the 10 M and the 1 M model
python bench/train_gpt.py --profile   where ours spends its time, by operator
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from _rows import append
from plain_gpt import PlainLoop

from metronorm.allocator import keep_large_blocks
from metronorm.clock import Clock
from metronorm.data.config import TextConfig
from metronorm.models.config import GPTConfig
from metronorm.tasks import text
from metronorm.tasks.text.gpt_task import count
from metronorm.train.preparing import Preparation
from metronorm.train.rank_beats import rank_windows

if TYPE_CHECKING:
    from metronorm.tasks.text import Config
    from metronorm.tasks.text.gpt_task import Batch
    from metronorm.train.step import Step

ROUNDS, STEPS = 12, 3

# GPT-2's architecture, which the plain loop has
PLAIN: dict[str, Any] = {"norm": "layer", "mlp": "gelu", "positions": "learned", "bias": False}
SHAPES = {
    "10 M": (GPTConfig(context=256, layers=6, heads=6, width=384, **PLAIN), 12),
    "0.8 M": (GPTConfig(context=128, layers=4, heads=4, width=128, **PLAIN), 24),
}


def main() -> None:
    for name in SHAPES:
        compare(name)


def compare(name: str) -> None:
    """Interleave steps of both; append tokens per second and their ratio."""
    ready, config = build(name)
    ours, batches = ready.step, ready.beats
    plain = PlainLoop(config.model, config.optimizer.learning_rate)
    plain.model.load_ours(ours.model.state_dict())
    check_same(ours, plain, ready.trial)
    print(f"{name}: ours chose {ours.precision}, allocator {ready.allocator}")

    tokens = count(ready.trial)
    speeds: dict[str, list[float]] = {"ours": [], "plain": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        Clock(f"{folder}/run", progress=False) as clock,
    ):
        ticks = clock.ticks(rank_windows(iter(batches), 1, count))
        for turn in range(ROUNDS + 1):
            keep_large_blocks(False)
            begin = time.perf_counter()
            for inputs, targets in itertools.islice(batches, STEPS):
                plain.step(torch.from_numpy(inputs), torch.from_numpy(targets))
            middle = time.perf_counter()
            keep_large_blocks(ready.allocator == "keep")
            switched = time.perf_counter()
            for window in itertools.islice(ticks, STEPS):
                ours.tick(clock, window)
            end = time.perf_counter()
            if turn:
                speeds["plain"].append(STEPS * tokens / (middle - begin))
                speeds["ours"].append(STEPS * tokens / (end - switched))
    for who, samples in speeds.items():
        append("train_gpt", f"{name}, {who}", "tokens/s", samples)
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["plain"], strict=True)]
    append("train_gpt", f"{name}, ours over plain", "ratio", ratios)


def build(name: str) -> tuple[Preparation, Config]:
    """Our side: step and endless beats of Shakespeare's characters; and its config."""
    shape, batch_size = SHAPES[name]
    config = replace(
        text.training_preset("small"), text=TextConfig(), model=shape, batch_size=batch_size
    )
    task = text.task(config)
    return Preparation(task, replace(task.config, device="cpu")), task.config


def check_same(ours: Step, plain: PlainLoop, beat: Batch) -> None:
    """Both must compute the same loss from the same weights, in fp32."""
    inputs, targets = (torch.from_numpy(array) for array in beat)
    with torch.no_grad():
        mine = ours.model(inputs, targets).item() / targets.numel()
        theirs = plain.model(inputs, targets).item()
    if abs(mine - theirs) > 1e-5:
        raise SystemExit(f"not the same model: loss {mine} and {theirs}")


def profile() -> None:
    """Where our tick goes, by operator."""
    ready, _ = build("10 M")
    ours, batches = ready.step, ready.beats
    keep_large_blocks(True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Clock(f"{folder}/run", progress=False) as clock,
    ):
        ticks = clock.ticks(rank_windows(iter(batches), 1, count))
        for window in itertools.islice(ticks, 3):
            ours.tick(clock, window)
        with torch.profiler.profile() as found:
            for window in itertools.islice(ticks, 5):
                ours.tick(clock, window)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    if "--profile" in sys.argv:
        profile()
    else:
        main()
