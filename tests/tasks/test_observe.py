from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metronorm.norm import LayerNorm
from metronorm.runs import open_run
from metronorm.tasks.observe import observe
from metronorm.train import Hook, Moment, OptimizerConfig, train

from ..train.stranger import small, task


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), LayerNorm(6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("name", ["adamw", "ticks", "ticks_muon"])
def test_numbers_of_every_layer(name: Any, tmp_path: Path) -> None:
    weights: dict[int, torch.Tensor] = {}

    def keep(moment: Moment) -> None:
        weights[moment.tick] = moment.model[0].weight.detach().clone()  # type: ignore[index]

    def whole(config: Any) -> Any:
        return replace(task(config), model=net, hooks=[observe(5), Hook(1, keep)])

    config = small(ticks=10, optimizer=OptimizerConfig(name=name, learning_rate=1e-2))
    train(whole, config, tmp_path / "run")
    rows = open_run(tmp_path / "run").ticks().rows()
    for row in rows:
        assert (row["update.3"] is not None) == (row["tick"] % 5 == 0)
    seen = rows[9]
    assert seen["gradient.0"] > 0
    assert seen["norm.1.std"] > 0
    moved = weights[10] - weights[9]
    assert seen["update.0"] >= moved.norm().item() * 0.999, "and the bias"
    assert seen["weight.0"] >= weights[10].norm().item() * 0.999


def test_a_model_without_norms(tmp_path: Path) -> None:
    def whole(config: Any) -> Any:
        return replace(task(config), hooks=[observe(1)])

    train(whole, small(ticks=2), tmp_path / "run")
    assert open_run(tmp_path / "run").ticks().rows()[1]["update.0"] > 0
