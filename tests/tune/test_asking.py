"""What is asked of Optuna: it knows what it is told, and nothing else."""

import math
from typing import Any

import pytest

from metronorm.tasks.text import Config
from metronorm.tune import asking
from metronorm.tune.asking import Told, ask
from metronorm.tune.space_file import space_from

SPACE = space_from(
    {
        "optimizer.name": {"choices": ["adamw", "ticks_muon"]},
        "optimizer.learning-rate": {"log": [1e-4, 1.0]},
        "optimizer.matrix-learning-rate": {
            "log": [1e-3, 1e-1],
            "when": {"optimizer.name": ["ticks_muon"]},
        },
        "optimizer.betas": {"choices": [[0.9, 0.95], [0.9, 0.99]]},
        "batch-size": {"integers": [4, 17], "step": 4},
        "optimizer.weight-decay": {"uniform": [0.0, 0.3]},
        "shape": {"choices": [{"model.layers": 2}, {"model.layers": 4, "model.width": 64}]},
    },
    Config,
)


def value(point: dict[str, Any]) -> float:
    return abs(math.log10(point["optimizer.learning-rate"]) + 2)


def told(number: int) -> list[Told]:
    found: list[Told] = []
    for each in range(number):
        point = ask(SPACE, found, seed=1, number=each)
        found.append(Told(point, value(point)))
    return found


def test_points_are_of_the_space_and_come_closer_to_the_best() -> None:
    found = told(40)
    for each in found:
        point = each.point
        muon = point["optimizer.name"] == "ticks_muon"
        assert muon == ("optimizer.matrix-learning-rate" in point)
        for one in SPACE.dimensions:
            assert one.name not in point or one.has(point[one.name]), point
        assert point["batch-size"] in (4, 8, 12, 16)
    first, last = ([each.value or 0.0 for each in part] for part in (found[:10], found[-10:]))
    assert sum(last) < 0.6 * sum(first)


def test_the_answer_depends_on_the_trials_and_the_seed_alone() -> None:
    found = told(12)
    again = ask(SPACE, found, seed=1, number=12)
    assert again == ask(SPACE, found, seed=1, number=12)
    assert again != ask(SPACE, found, seed=1, number=13)
    assert again != ask(SPACE, found, seed=2, number=12)
    assert again != ask(SPACE, found[:-1], seed=1, number=12)


def test_trials_without_a_value_and_those_under_way_are_known() -> None:
    """Where all that diverged lay, and where another process is, is asked for less."""
    found = told(12)
    best = min(found, key=lambda each: each.value or 0.0)
    near = [
        abs(
            math.log10(
                ask(SPACE, [*found, *extra], seed=3, number=n)["optimizer.learning-rate"]
                / best.point["optimizer.learning-rate"]
            )
        )
        for extra in ([], [Told(best.point, None)] * 6, [Told(best.point, None, running=True)] * 6)
        for n in range(12)
    ]
    alone, diverged, running = near[:12], near[12:24], near[24:]
    assert sum(diverged) > sum(alone)
    assert sum(running) > sum(alone)


def test_random_points_heed_no_trial() -> None:
    found = told(5)
    one = ask(SPACE, found, seed=1, number=5, sampler="random")
    assert one == ask(SPACE, [], seed=1, number=5, sampler="random")


def test_without_optuna_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from metronorm.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'metronorm\[tune\]'"):
        asking.optuna()
