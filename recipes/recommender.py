"""Recommend films: a transformer over what somebody has watched, on MovieLens-100k.

    make data
    python recipes/recommender.py                or: metronorm train --recipe recipes/recommender.py
    python recipes/recommender.py compare runs/recommender runs/recommender-2

The last film of each of 943 people is to test, the one before it to validate, the rest to train;
all films that somebody has not rated are ranked. `compare` takes the last weights of runs that
differ in their seeds, and ranks by what is popular, by neighbours of items and by EASE beside them.
What was reached is in recipes/results/recommender.json. Read from top to bottom.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from lib.comparing import compare
from lib.ranking import best, gains, hits, places
from lib.results import train
from lib.sequences import Held, Windows, held_out
from torch import Tensor

from metronorm.data import InOrder, Shuffled, movielens_100k
from metronorm.models import SASRec
from metronorm.tasks.observe import observe
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig

OPTIMIZER = OptimizerConfig(learning_rate=2e-3, betas=(0.9, 0.98), schedule="wsd", decay=0.95)
SHOWN = (0, 1, 2, 3, 4, 5)  # users whose lists are on the board


@dataclass(frozen=True)
class Config(TrainConfig):
    """The options of every training, with defaults for this one, and those of the model."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OPTIMIZER, metadata={"on_resume": "branch"}
    )
    ticks: int = 1000
    batch_size: int = 64
    evaluate_every: int = 100
    checkpoint_every: int = 100
    best: str = "ndcg_10"
    best_mode: Literal["min", "max"] = "max"
    width: int = 64
    """Numbers per film."""
    blocks: int = 2
    """Of attention and feed-forward layer."""
    heads: int = 1
    """Of attention."""
    length: int = 50
    """Films that are seen at once: the newest."""
    dropout: float = 0.2
    """Share of activations and attention weights."""
    norm: Literal["layer", "none"] = "layer"
    """Before each sub-layer, and at the end."""
    folder: str = ""
    """Folder of ml-100k.inter, ml-100k.item and ml-100k.user. Empty: that of the package."""


def task(config: Config) -> Task:
    """98,114 films to learn from, 943 to watch the training by, 943 to read once at the end."""
    data = movielens_100k(config.folder or None)
    windows, every = Windows(data, config.length), config.evaluate_every
    validation, test = (held_out(data, config.length, without=each) for each in (2, 1))
    return Task(
        model=lambda: net(config, len(data.titles)),
        batches=Shuffled(
            windows.users,
            windows.ends,
            seed=config.seed,
            transform=windows.rows,
            data_id=data.data_id,
        ),
        loss=lambda model, batch: model(*batch[:2]),
        count=lambda batch: int((batch[1] >= 0).sum()),
        measure=measure,
        validation=lambda: InOrder(*validation, batch_size=200),
        test=lambda: InOrder(*test, batch_size=200),
        hooks=[observe(every), Hook(every, Lists(data.titles, validation), at_end=True)],
        unit="items",
    )


def net(config: Any, items: int) -> SASRec:
    """The model of a config."""
    return SASRec(
        items,
        width=config.width,
        blocks=config.blocks,
        heads=config.heads,
        length=config.length,
        dropout=config.dropout,
        norm=config.norm,
    )


def measure(model: SASRec, batch: Any) -> dict[str, Tensor]:
    """The cross entropy of the film to find, and where it is in the list; summed over users."""
    scores, targets, seen = scored(model, batch)
    found = places(scores, targets, seen)
    loss = F.cross_entropy(scores, targets, reduction="sum")
    return {"loss": loss, "hr_10": hits(found).sum(), "ndcg_10": gains(found).sum()}


def scored(model: SASRec, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, (users, items), the item to find, (users,), and what was seen, (users, items)."""
    chosen, targets, seen = batch
    last = targets >= 0  # one place of each user
    return model.scores(model.features(chosen)[last]).float(), targets[last], seen


class Lists:
    """A table of the films that a few users are recommended, beside the one that they chose."""

    def __init__(self, titles: tuple[str, ...], held: Held) -> None:
        self.titles = titles
        self.batch = [torch.from_numpy(each[list(SHOWN)]) for each in held]

    def __call__(self, moment: Moment) -> None:
        """Keep the table; for the board."""
        device = next(moment.model.parameters()).device
        moment.model.eval()
        with torch.no_grad():
            scores, targets, seen = scored(moment.model, [each.to(device) for each in self.batch])  # type: ignore[arg-type]
        moment.model.train()
        found, lists = places(scores, targets, seen).tolist(), best(scores, seen).tolist()
        if moment.rank:
            return
        moment.clock.sample(
            "the first ten",
            [
                {"user": user, "chose": self.titles[item], "place": place + 1}
                | {str(number): self.titles[each] for number, each in enumerate(items, start=1)}
                for user, item, place, items in zip(
                    SHOWN, targets.tolist(), found, lists, strict=True
                )
            ],
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        sys.exit(compare(net, scored))
    sys.exit(train(__file__, ("seed", "norm")))
