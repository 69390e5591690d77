"""What `metronorm train` reaches in its three minutes, and plain fp32 loops in the same time.

First the preset `quick`, whole: with its clock, evaluations and checkpoints. Then, for as many
seconds as that took, the same model, tokens, batches and schedule in a plain hand-written fp32
loop; and the small CPU setting that tutorials use (characters, 0.8 M parameters, context 64, 12
sequences, GPT-2's architecture). All are judged on the whole held-out text, in nats per character.

python bench/train_quick.py
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from _rows import append
from plain_gpt import PlainGPT
from torch import Tensor, nn

from metronorm.allocator import keep_large_blocks
from metronorm.data.config import TextConfig
from metronorm.data.sampler import WindowSampler, validation_windows
from metronorm.data.text import prepare
from metronorm.models.config import GPTConfig
from metronorm.models.gpt import GPT
from metronorm.runs import open_run
from metronorm.tasks import text as text_task
from metronorm.tasks.text import Config, load_model, training_preset
from metronorm.train import OptimizerConfig, train
from metronorm.train.schedule import learning_rate_factor

if TYPE_CHECKING:
    from metronorm.data.dataset import TextDataset

NAME = "train_quick"
UNIT = "nats per character"


def main() -> None:
    config = training_preset("quick")
    text = prepare(config.text)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        train(text_task.task, config, run)
        ((ns,),) = open_run(run).ticks().sql("select sum(wall_ns) from ticks").fetchall()
        loss = evaluate(load_model(run), config, text)
    seconds = float(ns) / 1e9
    append(NAME, "metronorm train, quick", UNIT, [loss])
    append(NAME, "metronorm train, quick, time in ticks", "s", [seconds])

    keep_large_blocks(False)
    shape = replace(config.model, vocab_size=text.tokenizer.vocab_size)
    torch.manual_seed(config.seed)
    loss = plain(GPT(shape), config, text, seconds)
    append(NAME, "plain fp32 loop, same model and time", UNIT, [loss])

    text = prepare(TextConfig())
    shape = GPTConfig(
        vocab_size=text.tokenizer.vocab_size, context=64, layers=4, heads=4, width=128
    )
    tutorial = Config(
        model=shape,
        optimizer=OptimizerConfig(learning_rate=1e-3, final=0.1, betas=(0.9, 0.99)),
        batch_size=12,
    )
    torch.manual_seed(config.seed)
    loss = plain(_Summed(PlainGPT(shape)), tutorial, text, seconds)
    append(NAME, "plain fp32 loop, tutorial setting, same time", UNIT, [loss])


def plain(model: nn.Module, config: Config, text: TextDataset, seconds: float) -> float:
    """Train for so many seconds by hand; the loss per character on the held-out text."""
    batches = WindowSampler(text.train, config.model.context, config.batch_size, seed=config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    begin, steps = time.perf_counter(), 0
    while (done := (time.perf_counter() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            factor = learning_rate_factor(config.optimizer, 1 + int(9_999 * done), 10_000)
            group["lr"] = factor * config.optimizer.learning_rate
        inputs, targets = next(batches)
        loss = model(torch.from_numpy(inputs), torch.from_numpy(targets)) / targets.size
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    print(f"{steps} steps")
    return evaluate(model, config, text)


@torch.no_grad()
def evaluate(model: nn.Module, config: Config, text: TextDataset) -> float:
    model.eval()
    total, tokens = 0.0, 0
    for inputs, targets in validation_windows(text.validation, config.model.context, 32):
        total += model(torch.from_numpy(inputs), torch.from_numpy(targets)).item()
        tokens += targets.size
    return total / tokens / text.characters_per_token


class _Summed(nn.Module):
    """The plain model's mean loss as a sum over tokens."""

    def __init__(self, model: PlainGPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.model(tokens, targets)
        return loss * targets.numel()


if __name__ == "__main__":
    main()
