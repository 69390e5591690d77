"""A task in float64, for trainings that must be the same on any number of processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from metronorm.data import Shuffled
from metronorm.tasks.observe import observe
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig


@dataclass(frozen=True)
class Config(TrainConfig):
    """A few ticks."""

    kind: str = "plain"
    """What the task has of its own: plain, loader, accumulate, unused, sometimes, twice, observed,
    stop, hook on one rank, batch norm, compiled; what cannot be sharded: tied, method, wrapped."""
    dtype: str = "float64"
    """Of the model and its inputs."""


class Noting(nn.Module):
    """Notes whether the code that calls it has been compiled."""

    compiled = False

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        self.compiled = torch.compiler.is_compiling()
        return x


class Net(nn.Module):
    """Layers, of which dropout is one, and a part that no batch uses, or only some do."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(7, 10)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(10, 10),
                nn.LayerNorm(10),
                nn.Tanh(),
                Noting() if kind == "compiled" else nn.Dropout(0.1),
            )
            for _ in range(2)
        )
        self.last = nn.Linear(10, 3)
        self.aside = nn.Linear(3, 3) if kind in ("unused", "sometimes") else None
        self.norm = nn.BatchNorm1d(7) if kind == "batch norm" else nn.Identity()
        if kind == "tied":
            self.layers[1][0].weight = self.layers[0][0].weight  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        """Of points (batch, 7) the logits (batch, 3)."""
        uses_all = bool(x[0, 0] > 0)
        x = self.first(self.norm(x))
        for layer in self.layers:
            x = x + layer(x)
        logits: Tensor = self.last(x)
        if self.kind == "sometimes" and self.aside is not None and uses_all:
            logits = self.aside(logits)
        return logits

    def other(self, x: Tensor) -> Tensor:
        """The same, but not the model's forward."""
        return self.forward(x)


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy, summed over the labels that count, as few as none in a batch."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum", ignore_index=-1)


def count(batch: Any) -> int:
    """The labels that count."""
    return int((torch.as_tensor(batch[1]) >= 0).sum())


def measure(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Loss, right answers, and what only some batches have."""
    logits = model(batch[0])
    return {
        "loss": F.cross_entropy(logits, batch[1], reduction="sum", ignore_index=-1),
        "accuracy": (logits.argmax(1) == batch[1]).sum(),
        "squares": ((logits**2).sum(), len(logits)),
    }


def accumulate(model: nn.Module, batch: Any, weight: float) -> Tensor:
    """The loss of each half of a batch by itself."""
    parts = [
        loss(model, (batch[0][half], batch[1][half])) * weight
        for half in (slice(0, 3), slice(3, None))
    ]
    for part in parts:
        part.backward()
    return sum(parts).detach()  # type: ignore[union-attr]


def task(config: Config) -> Task:
    """Points in three classes; labels of -1 do not count."""
    chance = np.random.default_rng(5)
    points = chance.normal(size=(203, 7)).astype(config.dtype)
    labels = points[:, :3].argmax(1)
    labels[chance.random(203) < 0.3] = -1
    dtype = getattr(torch, config.dtype)
    pairs = TensorDataset(torch.from_numpy(points), torch.from_numpy(labels))

    def stop(moment: Moment) -> None:
        if moment.tick == 3 and moment.rank in (1, -1):
            moment.stop("rank 1 has seen enough")

    whole = Task(
        model=lambda: Net(config.kind).to(dtype),
        batches=Shuffled(points, labels, seed=config.seed),
        loss=loss,
        count=count,
        measure=measure,
        validation=DataLoader(pairs, 30),
        test=DataLoader(pairs, 41),
    )
    if config.kind == "loader":
        return replace(whole, batches=DataLoader(pairs, config.batch_size, shuffle=True))
    if config.kind == "accumulate":
        return replace(whole, accumulate=accumulate)
    if config.kind == "twice":  # two passes of the model in one loss
        return replace(
            whole,
            loss=lambda model, batch: loss(model, batch) + 0.1 * (model(-batch[0]) ** 2).sum(),
        )
    if config.kind == "method":
        return replace(whole, loss=lambda model, batch: loss(model.other, batch))
    if config.kind == "wrapped":
        return replace(whole, model=lambda: DistributedDataParallel(Net().to(dtype)))
    if config.kind == "observed":
        return replace(whole, hooks=[observe(2)])
    if config.kind == "compiled":

        def look(moment: Moment) -> None:
            found = [each.compiled for each in moment.model.modules() if isinstance(each, Noting)]
            assert found == [True, True]

        return replace(whole, hooks=[Hook(1, look)])
    if config.kind == "hook on one rank":
        first = pairs[:1][0]
        call = lambda moment: moment.rank or moment.model(first)  # noqa: E731
        return replace(whole, hooks=[Hook(2, call, phase="sample")])
    if config.kind == "stop":
        return replace(whole, hooks=[Hook(1, stop)])
    return whole


def config_of(**changes: Any) -> Config:
    """Six ticks of four beats."""
    options: dict[str, Any] = {
        "ticks": 6,
        "batch_size": 5,
        "micro_batches": 4,
        "precision": "fp32",
        "allocator": "system",
        "device": "cpu",
        "evaluate_every": 3,
        "checkpoint_every": 3,
        "optimizer": OptimizerConfig(learning_rate=1e-2, schedule="constant"),
    }
    optimizer = changes.pop("optimizer", None)
    if optimizer:
        options["optimizer"] = OptimizerConfig(
            **{"learning_rate": 1e-2, "schedule": "constant", **optimizer}
        )
    return Config(**options | changes)


CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "six beats": {"micro_batches": 6},
    "fewer beats than ranks": {"micro_batches": 1},
    "ticks": {"optimizer": {"name": "ticks", "clip": 0.0}},
    "ticks, clipped": {"optimizer": {"name": "ticks", "clip": 0.1}},
    "ticks_sign": {"optimizer": {"name": "ticks_sign"}},
    "averages": {"ema": 0.9, "average_last": 0.5},
    "loader": {"kind": "loader"},
    "accumulate": {"kind": "accumulate"},
    "unused": {"kind": "unused"},
    "sometimes": {"kind": "sometimes"},
    "sometimes, ticks": {"kind": "sometimes", "optimizer": {"name": "ticks", "clip": 0.0}},
    "observed": {"kind": "observed"},
    "twice": {"kind": "twice"},
    "checkpointing": {"activation_checkpointing": True},
}

# what is refused before the first tick, and what the error says, of `fsdp` (a wrapper: of both)
REFUSED = {
    "wrapped": "must give its model whole",
    "tied": "layers.0 and layers.1 share",
    "method": "a loss that calls",
}
