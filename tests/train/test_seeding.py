"""Random numbers of a place: the same whenever it is come to, and others at every other place."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metronorm.train import Task, train
from metronorm.train.seeding import random_numbers_put_back, seed_beat, seed_loading

from .acting import stop_at
from .stranger import Config, loss, small, task
from .tiny import losses

CPU = torch.device("cpu")


def drawn() -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def test_every_place_has_numbers_of_its_own() -> None:
    seen = []
    for seed in (-1, 0, 1, 2**40):
        for major in range(12):
            for minor in range(12):
                seed_beat(seed, major, minor, CPU)
                seen.append(drawn())
                seed_loading(seed, major, minor)
                seen.append(drawn())
    for numbers in zip(*seen, strict=True):
        # torch draws 24 bits in float32: a few of 1152 may meet by chance
        assert len(set(numbers)) >= len(seen) - 3
    seed_beat(0, 5, 6, CPU)
    first = drawn()
    seed_beat(0, 5, 6, CPU)
    assert drawn() == first


def test_generators_that_were_given_are_seeded_too() -> None:
    generator = torch.Generator()
    seed_loading(0, 1, 2, generators=[generator])
    first = torch.rand(3, generator=generator)
    torch.rand(100, generator=generator)
    seed_loading(0, 1, 2, generators=[generator])
    assert torch.equal(torch.rand(3, generator=generator), first)


def test_random_numbers_are_put_back() -> None:
    seed_all(1)
    np.random.randn()  # noqa: NPY002 - it keeps a second number for later
    expected = [drawn(), np.random.randn()]  # noqa: NPY002
    seed_all(1)
    np.random.randn()  # noqa: NPY002
    with random_numbers_put_back():
        seed_beat(0, 1, 2, CPU)
    assert [drawn(), np.random.randn()] == expected  # noqa: NPY002


def test_whatever_draws_in_the_loss_is_resumed(tmp_path: Path) -> None:
    """From NumPy's and Python's generators as from torch's; and the process has its own again."""

    def noisy(config: Config) -> Task:
        def scaled(model: nn.Module, batch: Any) -> Tensor:
            return loss(model, batch) * (1 + 0.1 * sum(drawn()))

        return replace(task(config), loss=scaled)

    config = small(ticks=12)
    seed_all(1)
    expected = drawn()
    seed_all(1)
    train(noisy, config, tmp_path / "whole")
    assert drawn() == expected
    with stop_at(7):
        train(noisy, config, tmp_path / "run")
    train(noisy, config, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
