"""Rules about losses and other metrics, each with its cause planted."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, diagnose

from ..store.tapes import training_metrics, write_training

SEEDS = range(3)
Change = Callable[[int, int, dict[str, Any]], None]


def train(run: Path, seed: int, change: Change, *, ticks: int = 1000, ranks: int = 1) -> Path:
    chance = random.Random(seed)

    def metrics(tick: int, rank: int) -> dict[str, Any]:
        found = training_metrics(chance, tick)
        change(tick, rank, found)
        return found

    return write_training(run, seed, ticks=ticks, ranks=ranks, metrics=metrics)


def only(run: Path) -> Finding:
    found = diagnose(open_run(run))
    assert len(found) == 1, [finding.what for finding in found]
    return found[0]


def without_cause(tick: int) -> float:
    return 2 + 8 * tick**-0.4


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_loss_that_is_not_finite_to_the_end(tmp_path: Path, value: str, rank: int) -> None:
    """First on one rank; a tick later, after the gradients were added up, on all."""

    def change(tick: int, of: int, found: dict[str, Any]) -> None:
        if tick > 71 or (tick == 71 and of == rank):
            found["loss"] = value

    finding = only(train(tmp_path / "run", 0, change, ticks=100, ranks=4))
    assert (finding.rule, finding.severity, finding.ticks) == ("not-finite", "critical", [71])
    assert finding.evidence["rank"] == rank
    assert finding.evidence["ranks"] == 4
    assert finding.evidence["records"] == 29 * 4 + 1
    assert ("NaN" if value == "nan" else "infinite") in finding.what
    assert f"on rank {rank}" in finding.what


@pytest.mark.parametrize(
    ("metric", "forever", "severity"),
    [
        ("loss", False, "warning"),
        ("auxiliary_loss", True, "critical"),
        ("gradient_norm", False, "notice"),
        ("gradient_norm", True, "warning"),
    ],
)
def test_the_severity_of_a_metric_that_is_not_finite(
    tmp_path: Path, metric: str, forever: bool, severity: str
) -> None:
    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        found.setdefault(metric, 1.0)
        if tick == 50 or (forever and tick > 50):
            found[metric] = "-inf"

    finding = only(train(tmp_path / "run", 0, change, ticks=100))
    assert (finding.severity, finding.ticks) == (severity, [50])
    assert finding.what.startswith(f"{metric} was first minus infinite at tick 50,")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spike(tmp_path: Path, seed: int) -> None:
    """Up by 1.5 at tick 600, decaying over 40 ticks."""

    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        if tick >= 600:
            found["loss"] += 1.5 * math.exp(-(tick - 600) / 15)

    finding = only(train(tmp_path / "run", seed, change))
    assert (finding.rule, finding.severity, finding.ticks) == ("loss-spike", "warning", [600])
    assert finding.evidence["spikes"] == 1
    assert finding.evidence["before"] == pytest.approx(without_cause(575), abs=0.05)
    assert finding.evidence["peak"] == pytest.approx(without_cause(600) + 1.5, abs=0.2)
    assert 20 <= finding.evidence["longest_ticks"] <= 60  # type: ignore[operator]
    assert finding.evidence["not_back"] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_unusual_batches(tmp_path: Path, seed: int) -> None:
    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        if tick in (300, 700):
            found["loss"] += 2.0 * tick / 300

    finding = only(train(tmp_path / "run", seed, change))
    assert (finding.rule, finding.severity, finding.ticks) == ("loss-spike", "notice", [300, 700])
    assert finding.evidence["worst_tick"] == 700
    assert finding.evidence["longest_ticks"] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_jump_that_is_not_back_yet(tmp_path: Path, seed: int) -> None:
    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        if tick >= 970:
            found["loss"] += 3.0

    finding = only(train(tmp_path / "run", seed, change))
    assert (finding.rule, finding.severity, finding.ticks) == ("loss-spike", "warning", [970])
    assert finding.evidence["not_back"] == 1
    assert "not back yet" in finding.what


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_often_jumps(tmp_path: Path, seed: int) -> None:
    """One tick in twenty is far above the others: none of them is a spike."""
    chance = random.Random(seed)

    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        if chance.random() < 0.05:
            found["loss"] += chance.expovariate(1)

    assert diagnose(open_run(train(tmp_path / "run", seed, change))) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_divergence(tmp_path: Path, seed: int) -> None:
    """From tick 500 it climbs, within 100 ticks, to 12, where it began at 10."""

    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        if tick > 500:
            found["loss"] += (12 - found["loss"]) * min((tick - 500) / 100, 1)

    finding = only(train(tmp_path / "run", seed, change, ranks=2))
    assert (finding.rule, finding.severity) == ("divergence", "critical")
    assert finding.evidence["best"] == pytest.approx(without_cause(475), abs=0.05)
    assert 400 <= finding.evidence["best_tick"] <= 500  # type: ignore[operator]
    assert finding.evidence["last"] == pytest.approx(12, abs=0.05)
    (since,) = finding.ticks
    assert 495 <= since <= 530
    assert f"checkpoint before tick {since}" in finding.advice


@pytest.mark.parametrize("seed", SEEDS)
def test_a_held_out_loss_that_rises_while_the_other_falls(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        found.pop("validation_loss", None)
        if tick % 20 == 0:
            noise = chance.gauss(0, 0.01)
            found["validation_loss"] = without_cause(min(tick, 500)) + max(tick - 500, 0) / 500
            found["validation_loss"] += noise

    finding = only(train(tmp_path / "run", seed, change))
    assert (finding.rule, finding.severity) == ("divergence", "warning")
    assert finding.what.startswith("validation_loss")
    assert 380 <= finding.evidence["best_tick"] <= 560  # type: ignore[operator]
    assert 0.8 < finding.evidence["last"] - finding.evidence["best"] < 1  # type: ignore[operator]
    assert "overfits" in finding.advice


@pytest.mark.parametrize(("last", "found"), [(0.02, []), (0.03, ["divergence"])])
def test_a_loss_near_0_may_rise_by_any_factor(
    tmp_path: Path, last: float, found: list[str]
) -> None:
    """It falls to nearly 0 within twenty ticks; a hundredth of its first value does not matter."""

    def change(tick: int, rank: int, values: dict[str, Any]) -> None:
        values["loss"] = 2.5 if tick <= 20 else 1e-7 + last * tick / 1000

    run = train(tmp_path / "run", 0, change)
    assert [finding.rule for finding in diagnose(open_run(run))] == found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_a_loss_that_learns_nothing_does_not_diverge(
    tmp_path: Path, seed: int, noise: float
) -> None:
    chance = random.Random(seed)

    def change(tick: int, rank: int, found: dict[str, Any]) -> None:
        found["loss"] = 3 + chance.gauss(0, noise)

    found = diagnose(open_run(train(tmp_path / "run", seed, change)))
    assert {finding.rule for finding in found} <= {"flat-loss"}
