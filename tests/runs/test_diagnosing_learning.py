"""Rules about runs that learn nothing, and about those that only look like it."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, diagnose

from ..store.tapes import training_metrics, write_training

Metrics = Callable[[int], dict[str, Any]]


def train(run: Path, metrics: Metrics, *, ticks: int = 300, first: int = 1) -> list[Finding]:
    write_training(run, 0, ticks=ticks, first=first, metrics=lambda tick, rank: metrics(tick))
    return diagnose(open_run(run))


def rules(found: list[Finding]) -> list[str]:
    return [finding.rule for finding in found]


def flat(noise: float, seed: int = 0, level: float = 2.3) -> Callable[[int], float]:
    chance = random.Random(seed)
    return lambda tick: level + chance.gauss(0, noise)


def rates(zero: Callable[[int], bool], loss: bool = False) -> Metrics:
    """Findings for a learning rate that is 0 in some ticks, with or without a falling loss."""
    chance = random.Random(0)

    def metrics(tick: int) -> dict[str, Any]:
        found = training_metrics(chance, tick) if loss else {}
        return found | {"learning_rate": 0.0 if zero(tick) else 1e-3}

    return metrics


def test_a_learning_rate_of_0(tmp_path: Path) -> None:
    """It explains the flat loss, which is then not reported."""
    loss = flat(0.01)
    (finding,) = train(tmp_path / "run", lambda tick: {"loss": loss(tick), "learning_rate": 0.0})
    assert (finding.rule, finding.severity) == ("zero-learning-rate", "critical")
    assert finding.ticks == [1, 300]
    assert finding.evidence["records"] == 300


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (1, 1, []),  # a warm-up begins
        (400, 400, []),  # a schedule ends
        (1, 19, []),
        (1, 20, ["zero-learning-rate"]),
        (200, 219, ["zero-learning-rate"]),
        (382, 400, []),
        (381, 400, ["zero-learning-rate"]),
    ],
)
def test_twenty_ticks_in_a_row_are_reported(
    tmp_path: Path, first: int, last: int, found: list[str]
) -> None:
    metrics = rates(lambda tick: first <= tick <= last)
    findings = train(tmp_path / "run", metrics, ticks=400)
    assert rules(findings) == found
    for finding in findings:
        assert (finding.severity, finding.ticks) == ("warning", [first, last])
        assert ("as many steps as the run has ticks" in finding.advice) == (last == 400)


@pytest.mark.parametrize(("ticks", "found"), [(600, ["zero-learning-rate"]), (640, [])])
def test_a_twentieth_of_the_ticks_is_reported(tmp_path: Path, ticks: int, found: list[str]) -> None:
    assert rules(train(tmp_path / "run", rates(lambda tick: tick <= 31), ticks=ticks)) == found


def test_a_rate_that_is_0_every_other_tick(tmp_path: Path) -> None:
    """As with two optimizers that take turns."""
    assert train(tmp_path / "run", rates(lambda tick: tick % 2 == 0)) == []


def test_a_rate_of_0_on_record_with_a_loss_that_falls(tmp_path: Path) -> None:
    """The recorded rate is of frozen parameters; other parameters learn."""
    assert train(tmp_path / "run", rates(lambda tick: True, loss=True)) == []


def test_one_of_two_rates_is_0(tmp_path: Path) -> None:
    assert train(tmp_path / "run", lambda tick: {"lr": 0.0, "learning_rate": 1e-3}) == []


@pytest.mark.parametrize("name", ["loss", "train_loss"])
def test_a_loss_that_never_moves(tmp_path: Path, name: str) -> None:
    """It is constant, as with a model that returns zeros."""
    (finding,) = train(tmp_path / "run", lambda tick: {name: math.log(10)})
    assert (finding.rule, finding.severity, finding.ticks) == ("flat-loss", "warning", [1])
    assert finding.evidence["level"] == pytest.approx(2.3026, abs=1e-4)
    assert "the same in all of them" in finding.what


def test_a_loss_that_is_flat_except_for_noise(tmp_path: Path) -> None:
    """Noise sometimes looks like learning; then nothing is reported."""
    found = 0
    for seed in range(10):
        loss = flat(0.023, seed)
        findings = train(tmp_path / str(seed), lambda tick, loss=loss: {"loss": loss(tick)})  # type: ignore[misc]
        found += rules(findings) == ["flat-loss"]
        assert all(finding.evidence["within_share"] < 0.01 for finding in findings)  # type: ignore[operator]
    assert found >= 7


@pytest.mark.parametrize(("ticks", "found"), [(199, []), (200, ["flat-loss"])])
def test_too_few_ticks(tmp_path: Path, ticks: int, found: list[str]) -> None:
    assert rules(train(tmp_path / "run", lambda tick: {"loss": 2.3}, ticks=ticks)) == found


FALLS: dict[str, Callable[[float], float]] = {
    "a hundredth over the run": lambda done: 1 - 0.01 * done,
    "in its first tenth": lambda done: 1 + 0.05 * max(1 - 10 * done, 0),
    "in its last tenth": lambda done: 1 - 0.2 * max(done - 0.9, 0),
    "at once": lambda done: 1.0 if done > 0.01 else 2.0,
    "in its first tick": lambda done: 1.0 if done > 1 / 300 else 1.2,
}


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.006])
@pytest.mark.parametrize("fall", FALLS)
def test_a_loss_that_falls(tmp_path: Path, fall: str, noise: float) -> None:
    """It falls a little, or only early, or only late."""
    chance = random.Random(1)

    def metrics(tick: int) -> dict[str, Any]:
        return {"loss": 2.3 * FALLS[fall](tick / 300) * (1 + chance.gauss(0, noise))}

    assert train(tmp_path / "run", metrics) == []


def test_a_loss_with_too_much_noise_to_see_whether_it_falls(tmp_path: Path) -> None:
    loss = flat(0.2)
    assert train(tmp_path / "run", lambda tick: {"loss": loss(tick)}) == []


@pytest.mark.parametrize("name", ["validation_loss", "discriminator_loss", "accuracy"])
def test_other_metrics_may_be_flat(tmp_path: Path, name: str) -> None:
    assert train(tmp_path / "run", lambda tick: {name: 0.6931}) == []


def test_a_loss_of_0_has_nothing_to_learn(tmp_path: Path) -> None:
    assert train(tmp_path / "run", lambda tick: {"loss": 0.0}) == []


def test_a_record_without_the_beginning(tmp_path: Path) -> None:
    """The loss may have fallen before."""
    assert train(tmp_path / "run", lambda tick: {"loss": 2.3}, first=1001) == []


@pytest.mark.parametrize(("last", "found"), [(300, []), (200, ["flat-loss"])])
def test_a_learning_rate_that_still_warms_up(tmp_path: Path, last: int, found: list[str]) -> None:
    def metrics(tick: int) -> dict[str, Any]:
        return {"loss": 2.3, "learning_rate": 1e-3 * min(tick / last, 1)}

    assert rules(train(tmp_path / "run", metrics)) == found


def test_a_loss_that_was_logged_at_some_ticks(tmp_path: Path) -> None:
    found = train(tmp_path / "run", lambda tick: {} if tick % 2 else {"loss": 2.3}, ticks=400)
    assert rules(found) == ["flat-loss"]
    assert found[0].ticks == [2]
