"""A stranger's script: a model, data and a task that the package has never heard of."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from metronorm.data import InOrder, Shuffled
from metronorm.train import OptimizerConfig, Task, TrainConfig


@dataclass(frozen=True)
class Config(TrainConfig):
    """A small classifier."""

    width: int = 16
    """Size of the hidden layer."""
    batches: str = "order"
    """order, loader, workers, persistent or iterable."""


def examples(count: int = 200) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Points and which of three directions they lie in, always the same."""
    chance = np.random.default_rng(7)
    points = chance.normal(size=(count, 8)).astype(np.float32)
    return points, (points[:, :3].argmax(1)).astype(np.int64)


class Stream(IterableDataset[Any]):
    """Examples one by one, of which every worker has its share."""

    def __iter__(self) -> Any:
        info = torch.utils.data.get_worker_info()
        points, labels = examples()
        for index in range(info.id if info else 0, len(points), info.num_workers if info else 1):
            yield points[index] + 0.01 * torch.randn(8).numpy(), labels[index]


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy, summed."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def measure(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Loss and number of right answers, summed."""
    logits = model(batch[0])
    right = (logits.argmax(1) == batch[1]).sum()
    return {"loss": F.cross_entropy(logits, batch[1], reduction="sum"), "accuracy": right}


def task(config: Config) -> Task:
    """A net with dropout on these points."""
    points, labels = examples()
    pairs = TensorDataset(torch.from_numpy(points), torch.from_numpy(labels))
    batches: dict[str, Any] = {
        "order": lambda: Shuffled(points, labels, seed=config.seed),
        "loader": lambda: DataLoader(pairs, config.batch_size, shuffle=True),
        "workers": lambda: DataLoader(pairs, config.batch_size, shuffle=True, num_workers=2),
        "persistent": lambda: DataLoader(
            pairs, config.batch_size, shuffle=True, num_workers=2, persistent_workers=True
        ),
        "iterable": lambda: DataLoader(Stream(), config.batch_size, num_workers=2),
    }
    return Task(
        model=lambda: nn.Sequential(
            nn.Linear(8, config.width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(config.width, 3)
        ),
        batches=batches[config.batches](),
        loss=loss,
        count=lambda batch: len(batch[1]),
        measure=measure,
        validation=lambda: InOrder(points[:50], labels[:50], batch_size=20),
        test=lambda: InOrder(points[50:90], labels[50:90], batch_size=20),
    )


def small(**changes: Any) -> Config:
    """A training of a second."""
    options: dict[str, Any] = {
        "ticks": 40,
        "batch_size": 16,
        "micro_batches": 2,
        "precision": "fp32",
        "allocator": "system",
        "device": "cpu",
        "evaluate_every": 10,
        "checkpoint_every": 5,
        "optimizer": OptimizerConfig(learning_rate=1e-2),
    }
    return Config(**options | changes)


def changed(**changes: Any) -> Any:
    """The task with other parts."""
    return lambda config: replace(task(config), **changes)
