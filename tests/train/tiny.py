"""A training small enough to be done a hundred times."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metronorm.data.config import TextConfig
from metronorm.models.config import GPTConfig
from metronorm.runs import open_run
from metronorm.tasks.text import Config
from metronorm.train import OptimizerConfig

if TYPE_CHECKING:
    from pathlib import Path


def write_text(folder: Path, documents: int = 10, words: int = 200) -> None:
    """Documents of made-up words, always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefgh", k=chance.randint(2, 6))) for _ in range(40)]
    for number in range(documents):
        (folder / f"{number}.txt").write_text(" ".join(chance.choices(vocabulary, k=words)) + "\n")


def tiny_config(folder: Path, **changes: Any) -> Config:
    """A config that trains in about a second; its text lies in `folder`."""
    write_text(folder / "text")
    config = Config(
        text=TextConfig(data=(str(folder / "text"),), cache=folder / "cache"),
        model=GPTConfig(context=16, layers=1, heads=2, width=16, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        ticks=30,
        batch_size=4,
        micro_batches=2,
        precision="fp32",
        allocator="system",
        device="cpu",
        evaluate_every=10,
        evaluate_tokens=256,
        sample_every=0,
        checkpoint_every=5,
    )
    return replace(config, **changes)


def writing(folder: Path, **changes: Any) -> Config:
    """The config of a training that lets its model write."""
    return tiny_config(folder, ticks=4, sample_every=2, sample_tokens=20, **changes)


def losses(run: Path) -> list[tuple[int, float, float | None]]:
    """Tick, loss and validation loss of the effective history."""
    return [(row["tick"], row["loss"], row.get("validation_loss")) for row in rows(run)]


def rows(run: Path) -> list[dict[str, Any]]:
    """The ticks of the effective history."""
    return open_run(run).ticks().rows()
