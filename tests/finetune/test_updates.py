"""The share of updates that rounding swallows, counted beside what is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from metronorm.finetune.updates import lost_updates
from metronorm.runs import open_run
from metronorm.train import OptimizerConfig, Task, TrainConfig, train

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.train.config import OptimizerName


class Gains(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((64,), 0.4, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(self.weight.dtype) * self.weight).float().sum()


def shares(
    directory: Path,
    dtype: torch.dtype,
    rate: float,
    *,
    stochastic: bool = False,
    name: OptimizerName = "ticks_sign",
    elements: int = 64,
    every: int = 1,
) -> Any:
    """`lost_updates` of five ticks; half of the elements have no gradient."""
    inputs = torch.cat([torch.ones(32), torch.zeros(32)])
    model = Gains(dtype)

    def groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
        group: dict[str, Any] = {"params": list(model.parameters()), "weight_decay": 0.0}
        return [group | ({"stochastic_rounding": True} if stochastic else {})]

    task = Task(
        model=lambda: model,
        batches=[inputs],
        loss=lambda model, batch: model(batch),
        count=lambda batch: 1,
        groups=groups,
        hooks=[lost_updates(lambda: dict(model.named_parameters()), every, elements)],
    )
    config = TrainConfig(
        optimizer=OptimizerConfig(
            name=name, learning_rate=rate, schedule="constant", warmup=0.0, clip=0.0
        ),
        ticks=5,
        precision="fp32",
        allocator="system",
    )
    train(task, config, directory)
    rows = open_run(directory).ticks().fetch("select lost_updates from ticks order by tick")
    return [row[0] for row in rows]


def test_bfloat16_swallows_what_float32_keeps(tmp_path: Path) -> None:
    # neighbours of 0.4 in bfloat16 are 2**-9 away: 0.00098 is lost, twice that is not
    assert shares(tmp_path / "lost", torch.bfloat16, 9e-4) == [1.0] * 5
    assert shares(tmp_path / "kept", torch.bfloat16, 2e-3) == [0.0] * 5
    assert shares(tmp_path / "wide", torch.float32, 9e-4) == [0.0] * 5


def test_rounding_at_random_keeps_the_mean_and_loses_the_rest(tmp_path: Path) -> None:
    found = shares(tmp_path / "run", torch.bfloat16, 5e-4, stochastic=True)
    assert 0.5 < sum(found) / 5 < 0.95  # a quarter moves: 5e-4 of 2**-9


@pytest.mark.parametrize("name", ["adamw", "ticks", "ticks_sign"])
@pytest.mark.parametrize("elements", [64, 10])
def test_every_optimizer_is_watched(name: OptimizerName, elements: int, tmp_path: Path) -> None:
    found = shares(tmp_path / "run", torch.bfloat16, 1e-6, name=name, elements=elements)
    assert found == [1.0] * 5


def test_ticks_between_measurements_have_none(tmp_path: Path) -> None:
    assert shares(tmp_path / "run", torch.bfloat16, 1e-6, every=2) == [None, 1.0, None, 1.0, None]
