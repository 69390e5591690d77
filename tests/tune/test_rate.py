"""The learning rate that is found: where the search goes, and that it is a good one."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metronorm.errors import ConfigError, DivergenceError
from metronorm.train import train
from metronorm.tune.rate import STEP, climbed, find_rate, lowest

from .least_squares import Config, task


@pytest.mark.parametrize("best", [0.02, 0.3, 1.0, 2.0, 30.0])
def test_it_climbs_to_the_lowest_and_the_parabola_meets_it(best: float) -> None:
    tried = climbed(lambda factor: math.log(factor / best) ** 2, most=9)
    assert lowest(tried) == pytest.approx(best)
    assert len(tried) <= 6


def test_no_factor_reaches_the_bound() -> None:
    """The values fall towards it."""
    tried = climbed(lambda factor: -factor, below=2.0, most=5)
    assert max(tried) < 2.0
    assert lowest(tried) == max(tried) == 2.0 / STEP
    assert len(tried) == 2  # one below the best is known, and nothing is allowed above


def test_it_comes_down_where_everything_diverges() -> None:
    tried = climbed(lambda factor: math.inf if factor > 0.05 else -factor, most=5)
    assert lowest(tried) == pytest.approx(STEP**-3)
    assert sum(map(math.isinf, tried.values())) == 3


def test_the_rate_is_nearly_as_good_as_the_best_of_a_grid(tmp_path: Path) -> None:
    config = Config(ticks=300)
    lines: list[str] = []
    found = find_rate(task, config, tmp_path / "run", lines.append)
    assert not list(tmp_path.iterdir())  # the short runs are gone
    assert len(lines) >= len(found.tried)
    assert found.ticks <= 20 + 5 * 20

    def loss(rate: float) -> float:
        changed = replace(config, optimizer=replace(config.optimizer, learning_rate=rate))
        return train(task, changed, tmp_path / f"at-{rate}").measures["loss"]

    default, *grid = [loss(rate) for rate in (1e-3, 1e-2, 0.11, 0.3)]
    reached = loss(found.config.optimizer.learning_rate)
    assert reached < 0.5 * default
    assert reached < min(grid) + 0.1 * default


def test_it_costs_little_and_never_reads_the_test_set(tmp_path: Path) -> None:
    """Short runs evaluate no more than they train on, but for a batch."""
    read: list[int] = []

    def made(config: Any) -> Any:
        found = task(config)
        (inputs, targets) = found.validation[0]  # type: ignore[index]

        def validation() -> Any:
            for number in range(100):
                read.append(number)
                yield inputs, targets

        return replace(found, validation=validation, test=lambda: pytest.fail("it was read"))

    found = find_rate(made, Config(ticks=1000), tmp_path / "run")
    assert found.ticks <= 150
    assert max(read) < 20 * 8 / 32 + 1  # ticks of 8 examples, batches of 32


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"ticks": 30}, "at least 40 ticks"), ({"minutes": 1.0}, "a number of ticks")],
)
def test_what_it_cannot_be_found_for(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        find_rate(task, replace(Config(ticks=100), **changes), tmp_path / "run")


def test_it_needs_held_out_data_and_a_finite_loss(tmp_path: Path) -> None:
    config = Config(ticks=100)
    with pytest.raises(ConfigError, match="held-out data"):
        find_rate(lambda one: replace(task(one), validation=None), config, tmp_path / "run")

    far = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30, clip=0.0))
    with pytest.raises(DivergenceError):
        find_rate(task, far, tmp_path / "run")
