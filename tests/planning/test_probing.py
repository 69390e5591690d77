from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metronorm.errors import DataError
from metronorm.planning import plan
from metronorm.train import Hook

from ..train.stranger import small, task


def changed(**changes: Any) -> Any:
    return lambda config: replace(task(config), **changes)


def test_a_plan_says_what_a_training_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan(task, small(ema=0.9))
    assert found.parameters == 8 * 16 + 16 + 16 * 3 + 3
    assert (found.device, found.precision, found.unit) == ("cpu", "fp32", "examples")
    assert (found.per_tick, found.ticks, found.passes) == (32, 40, 40 * 32 / 200)
    assert found.seconds == 40 * found.seconds_per_tick > 0
    assert found.memory_bytes > 10 << 20
    assert list(tmp_path.iterdir()) == [], "no run is made"


@pytest.mark.parametrize("ticks", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_plan_of_a_few_ticks_needs_no_more(ticks: int, schedule: str) -> None:
    config = small(ticks=ticks)
    config = replace(config, optimizer=replace(config.optimizer, schedule=schedule))
    rows = [(torch.zeros(16, 8), torch.zeros(16, dtype=torch.int64))] * 2 * ticks
    found = plan(changed(batches=iter(rows)), config)
    assert found.ticks == ticks
    assert found.passes is None
    assert found.seconds_per_tick > 0


def test_hooks_are_not_called_and_nothing_is_saved() -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("a plan makes no run")

    hook = Hook(1, never, at_end=True, around=never)
    plan(changed(hooks=[hook], save=never), small(ticks=2, evaluate_every=1))


def test_a_plan_finds_what_a_training_would() -> None:
    with pytest.raises(DataError, match="something to count"):
        plan(changed(count=lambda batch: 0), small())
