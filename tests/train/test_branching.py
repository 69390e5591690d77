"""Which checkpoint is the best one, and branches of a run, which have a best of their own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from metronorm.checkpoints.folder import (
    best_checkpoint,
    checkpoint_paths,
    newest_checkpoint,
)
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.train import Hook, Moment, OptimizerConfig, train

from .acting import stop_at
from .stranger import changed, small, task
from .tiny import losses, rows


def test_the_best_by_any_measure_is_kept(tmp_path: Path) -> None:
    config = small(best="accuracy", best_mode="max", keep=1, checkpoint_every=1000)
    train(task, config, tmp_path / "run")
    found = best_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    highest = max(row["validation_accuracy"] or 0 for row in rows(tmp_path / "run"))
    assert found.state["measures"]["accuracy"] == highest
    with pytest.raises(ConfigError, match="best must be one of the measures"):
        train(task, small(best="f1"), tmp_path / "other")


def test_a_branch_goes_on_from_a_chosen_checkpoint_with_another_rate(tmp_path: Path) -> None:
    config = small(keep=100)
    train(task, config, tmp_path / "run")
    before = losses(tmp_path / "run")
    slower = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-4))
    with pytest.raises(ConfigError, match=r"learning_rate: .* --from-tick N"):
        train(task, slower, tmp_path / "run", resume=True)
    with stop_at(23):
        train(task, slower, tmp_path / "run", resume=True, from_tick=20)
    assert losses(tmp_path / "run")[:20] == before[:20]
    # a later resume stays on the branch, although there are newer checkpoints off it
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == 23
    train(task, slower, tmp_path / "run", resume=True)
    after = losses(tmp_path / "run")
    assert len(after) == 40
    assert after[20] == before[20], "its loss is of the weights before it"
    assert after[21:] != before[21:]
    rates = [row["learning_rate"] for row in rows(tmp_path / "run")]
    assert rates[20] < rates[19] / 50
    (branch,) = [
        row for row in open_run(tmp_path / "run").events().rows() if row["event"] == "branch"
    ]
    assert "learning_rate: 0.01 in the run, 0.0001 asked for" in branch["fields"]


def scored(ticks: dict[int, float], *, stop: int = 0) -> Any:
    """A task whose evaluations have these scores, by tick, and else a bad one."""
    now = 0

    def count(moment: Moment) -> None:
        nonlocal now
        now = moment.tick
        if now == stop:
            moment.stop("as planned")

    def measured(model: nn.Module, batch: Any) -> dict[str, float]:
        return {"loss": ticks.get(now + 1, 9.0) * len(batch[1])}

    return changed(measure=measured, hooks=[Hook(1, count)])


def best_tick(run: Path) -> int:
    found = best_checkpoint(run / "checkpoints")
    assert found is not None
    return found.tick


def test_after_a_branch_the_best_is_one_of_its_own_history(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = small(ticks=12, evaluate_every=2, checkpoint_every=2, keep=1)
    train(scored({4: 3.0, 8: 1.0}), replace(config, keep=9), run)
    assert best_tick(run) == 8
    branch = scored({4: 3.0, 6: 2.0, 10: 1.5}, stop=9)
    train(branch, config, run, resume=True, from_tick=4)
    assert best_tick(run) == 6, "and not 8, which the branch has left"
    train(branch, config, run, resume=True)
    assert best_tick(run) == 10
    kept = checkpoint_paths(run / "checkpoints")
    assert [path.name for path in kept] == ["tick-00000010", "tick-00000012"]


def test_a_branch_from_what_another_has_left_has_not_its_best(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = small(ticks=12, evaluate_every=2, checkpoint_every=2, keep=9)
    train(scored({2: 4.0}), config, run)
    train(scored({6: 1.0}, stop=6), config, run, resume=True, from_tick=4)
    assert best_tick(run) == 6
    train(scored({}, stop=9), config, run, resume=True, from_tick=8)
    assert best_tick(run) == 2


def test_a_branch_keeps_its_optimizer(tmp_path: Path) -> None:
    train(task, small(), tmp_path / "run")
    other = small(optimizer=OptimizerConfig(name="ticks"))
    with pytest.raises(ConfigError, match=r"optimizer\.name: 'adamw' in the run, 'ticks' asked"):
        train(task, other, tmp_path / "run", resume=True, from_tick=40)
    with pytest.raises(ConfigError, match="from_tick is for a run that goes on"):
        train(task, small(), tmp_path / "new", from_tick=40)


def test_the_best_may_be_of_an_average_that_begins_later(tmp_path: Path) -> None:
    train(task, small(average_last=0.25, best="loss_last", keep=1), tmp_path / "run")
    found = best_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.tick == 40
