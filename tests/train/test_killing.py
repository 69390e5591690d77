"""A training that is killed at any instant goes on as if nothing had been."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from metronorm.train import train

from .killing import Zygote, check_checkpoints
from .tiny import losses
from .zygote import training

KILLS = 10  # of each kind of batches


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("tests.train.zygote") as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["text", "order", "loader", "workers"])
def test_always_resumable_whenever_it_is_killed(zygote: Zygote, tmp_path: Path, kind: str) -> None:
    """SIGKILL between checkpoints and in the middle of writing one; the losses never differ."""
    train(*training(kind, tmp_path), tmp_path / "whole")
    expected = losses(tmp_path / "whole")
    chance = random.Random(kind)
    kills = in_the_middle = runs = 0
    trainings = zygote.training(kind, tmp_path)
    while kills < KILLS:
        run = tmp_path / f"run-{runs}"
        runs += 1
        code, how = None, "new"
        while code != 0:
            if kills < KILLS and (how == "resume" or chance.random() < 0.8):
                writing = chance.random() < 0.6
                code, met = trainings.killed(run, how, chance, while_writing=writing)
                in_the_middle += met
                kills += code == -signal.SIGKILL
            else:
                code = trainings.run(run, how)
            assert code in (0, -signal.SIGKILL)
            if code == -signal.SIGKILL:
                how = "resume"  # from tick 0 where there is no checkpoint yet
                check_checkpoints(run)
        assert losses(run) == expected
    assert in_the_middle > KILLS // 10, "too few kills met a checkpoint being written"
