"""Validation loss on Shakespeare after equal numbers of ticks: every optimizer, three seeds.

The 10 M GPT of the preset `small`, 12 sequences of 256 tokens per tick, warm-up and linear decay to
zero over all ticks. Each optimizer has the learning rate that was best for it among a few after 100
ticks of one seed; `TicksMuon, 4 beats` is `TicksMuon` with the same sequences three at a time.

python bench/ticks_training.py [--seeds 3] [--ticks 160]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _rows import append

from metronorm.allocator import keep_large_blocks
from metronorm.clock import Clock
from metronorm.data.sampler import WindowSampler, validation_windows
from metronorm.data.text import prepare
from metronorm.models.gpt import GPT
from metronorm.tasks import text as text_task
from metronorm.tasks.text import Config, training_preset
from metronorm.tasks.text.gpt_task import count, hidden_matrices
from metronorm.train import OptimizerConfig
from metronorm.train.evaluate import evaluate
from metronorm.train.optimizers import groups_of, make_optimizer
from metronorm.train.rank_beats import rank_windows
from metronorm.train.step import Step

if TYPE_CHECKING:
    from metronorm.data.dataset import TextDataset

NAME = "ticks_training"
EVALUATIONS = 4
EVALUATE_TOKENS = 65_536
SCHEDULE: dict[str, Any] = {"schedule": "wsd", "warmup": 0.1, "decay": 0.5, "final": 0.0}


@dataclass(frozen=True)
class Contestant:
    """An optimizer and its settings; `nesterov` takes torch's Muon instead."""

    optimizer: OptimizerConfig
    micro_batches: int = 1
    nesterov: bool = False


def adamw(rate: float, **more: Any) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=rate, **SCHEDULE, **more)


def muon() -> OptimizerConfig:
    return adamw(2e-3, name="ticks_muon", matrix_learning_rate=0.03)


CONTESTANTS = {
    "TicksMuon": Contestant(muon()),
    "AdamW": Contestant(adamw(5e-4)),
    "torch Muon, nesterov": Contestant(muon(), nesterov=True),
    "Ticks": Contestant(adamw(0.1, name="ticks", momentum=0.9)),
    "TicksAdam": Contestant(adamw(5e-4, name="ticks_adam", clip=0.0)),
    "TicksMuon, 4 beats": Contestant(muon(), micro_batches=4),
    "TicksAdam, 4 beats": Contestant(adamw(5e-4, name="ticks_adam", clip=0.0), micro_batches=4),
    "TicksSign": Contestant(adamw(2e-4, name="ticks_sign", momentum=0.9)),
}


class Both:
    """Torch's Muon, with Nesterov's step, and AdamW, for what TicksMuon gives to each."""

    def __init__(self, model: GPT, config: OptimizerConfig) -> None:
        groups = groups_of(model, config, hidden_matrices(model))
        first, *rest = make_optimizer(model, config, torch.device("cpu"), groups).param_groups
        names = ("params", "weight_decay")
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                first["params"],
                lr=config.matrix_learning_rate,
                weight_decay=first["weight_decay"],
                momentum=config.momentum,
                nesterov=True,
            ),
            torch.optim.AdamW(
                [{name: group[name] for name in names} for group in rest],
                lr=config.learning_rate,
                betas=config.betas,
                fused=True,
            ),
        ]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ticks", type=int, default=160)
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS))
    arguments = parser.parse_args()
    keep_large_blocks(True)
    base = training_preset("small")
    text = prepare(base.text)
    for name in arguments.only:
        curves = []
        for seed in range(arguments.seeds):
            config = replace(
                base,
                model=replace(base.model, vocab_size=text.tokenizer.vocab_size),
                optimizer=CONTESTANTS[name].optimizer,
                batch_size=base.batch_size // CONTESTANTS[name].micro_batches,
                micro_batches=CONTESTANTS[name].micro_batches,
                ticks=arguments.ticks,
                seed=seed,
            )
            curves.append(run(config, CONTESTANTS[name].nesterov, text))
        for tick in curves[0]:
            losses = [curve[tick] for curve in curves]
            append(NAME, f"10 M, {name}, tick {tick}", "nats per character", losses)


def run(config: Config, nesterov: bool, text: TextDataset) -> dict[int, float]:
    """Validation loss at a few ticks."""
    torch.manual_seed(config.seed)
    model = GPT(config.model)
    step = Step(text_task.task(config), config, model, torch.device("cpu"))
    step.precision = "bf16"
    if nesterov:
        step.optimizer = Both(model, config.optimizer)  # type: ignore[assignment]
    batches = WindowSampler(text.train, config.model.context, config.batch_size, seed=config.seed)
    curve = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Clock(Path(folder, "run"), progress=False) as clock,
    ):
        beats = rank_windows(iter(batches), config.micro_batches, count)
        for window in clock.ticks(beats, total=config.ticks):
            step.tick(clock, window)
            if clock.tick % math.ceil(config.ticks / EVALUATIONS) == 0:
                held_out = validation_windows(
                    text.validation, config.model.context, 12, max_tokens=EVALUATE_TOKENS
                )
                curve[clock.tick] = evaluate(model, held_out, step.sums, count)[
                    "loss_per_character"
                ]
                print(f"{clock.tick}: {curve[clock.tick]:.4f}", flush=True)
    return curve


if __name__ == "__main__":
    main()
