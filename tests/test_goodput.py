"""The simulation of failures, against the textbook."""

import runpy
from pathlib import Path

import pytest

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "goodput.py"))
CHECKPOINT, RESTART, FAILURES = 2.0, 30.0, 20_000.0


def simulated(interval: float) -> float:
    goodput: float = BENCH["goodput"](
        interval, CHECKPOINT, RESTART, FAILURES, seconds=5000 * FAILURES, seed=0
    )
    return goodput


def test_youngs_interval_is_the_best_and_has_the_goodput_that_he_derived() -> None:
    best = BENCH["best_interval"](CHECKPOINT, FAILURES)
    assert best == pytest.approx(282.8, abs=0.1)
    expected = BENCH["predicted"](best, CHECKPOINT, RESTART, FAILURES)
    assert simulated(best) == pytest.approx(expected, abs=5e-4)
    assert simulated(best) > max(simulated(best / 3), simulated(3 * best)) + 5e-3


def test_without_failures_only_checkpoints_cost() -> None:
    found = BENCH["goodput"](98.0, CHECKPOINT, 0.0, 1e12, seconds=1.0, seed=1)
    assert found == pytest.approx(0.98, abs=1e-6)
