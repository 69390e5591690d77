"""A task that trains in a tenth of a second: least squares, whose best learning rate is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metronorm.data import Shuffled
from metronorm.errors import ConfigError
from metronorm.train import OptimizerConfig, Task, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Config(TrainConfig):
    """Least squares."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, clip=0.0, weight_decay=0.0)
    )
    ticks: int = 20
    batch_size: int = 8
    evaluate_every: int = 1000
    checkpoint_every: int = 1000
    precision: str = "fp32"  # type: ignore[assignment]
    allocator: str = "system"  # type: ignore[assignment]
    device: str = "cpu"
    hidden: int = 4
    """Width of the hidden layer."""
    heads: int = 1
    """It must divide hidden."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden % self.heads:
            raise ConfigError("heads must divide hidden", got=f"{self.heads}")


def task(config: Any) -> Task:
    """Inputs and targets are drawn from the seed 0, whatever that of the training."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(128, 4, generator=generator)
    targets = inputs @ torch.tensor([1.0, -2.0, 3.0, 0.5])
    held = (inputs[96:], targets[96:])
    return Task(
        model=lambda: nn.Sequential(
            nn.Linear(4, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1)
        ),
        batches=Shuffled(inputs[:96].numpy(), targets[:96].numpy(), seed=config.seed),
        loss=loss,
        count=lambda batch: len(batch[1]),
        validation=[held],
        data_id="least squares",
    )


def loss(model: nn.Module, batch: Any) -> Tensor:
    """The sum of the squares."""
    inputs, targets = batch
    return ((model(inputs)[:, 0] - targets) ** 2).sum()
