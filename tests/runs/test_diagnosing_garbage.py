"""The rule about Python's garbage collector, on runs that were written and on one that ran."""

import gc
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, diagnose

from ..store.tapes import MS, PHASES_MS, REST_MS, write_training

TICK_MS = sum(PHASES_MS.values()) + REST_MS
SEEDS = range(3)


def only(run: Path) -> Finding:
    found = diagnose(open_run(run))
    assert len(found) == 1, [finding.what for finding in found]
    return found[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_collection_in_every_tick(tmp_path: Path, seed: int) -> None:
    run = write_training(tmp_path / "run", seed, ranks=2, gc_ms=lambda tick: 30)
    found = {finding.rule: finding for finding in diagnose(open_run(run))}
    assert set(found) == {"garbage", "straggler"}, "it is why the other rank waits"
    finding = found["garbage"]
    assert finding.severity == "warning"
    assert finding.evidence["rank"] == 0
    assert finding.evidence["share"] == pytest.approx(30 / (TICK_MS + 30), rel=0.05)
    assert finding.evidence["mean_ns"] == finding.evidence["median_ns"] == 30 * MS
    assert "in nearly every tick" in finding.what
    assert "calls `gc.collect()` itself" in finding.advice
    assert len(finding.ticks) == 10


@pytest.mark.parametrize("seed", SEEDS)
def test_rare_long_collections_are_not_slow_ticks_too(tmp_path: Path, seed: int) -> None:
    gc_ms = dict.fromkeys(range(37, 400, 37), 400.0)
    run = write_training(tmp_path / "run", seed, gc_ms=lambda tick: gc_ms.get(tick, 0.2))
    finding = only(run)
    assert finding.rule == "garbage"
    assert finding.evidence["ticks_above_mean"] == 10
    assert finding.evidence["longest_ns"] == 400 * MS
    assert finding.ticks == list(gc_ms)
    assert "most of it in 10 ticks, 400 ms at most" in finding.what
    assert "calls" not in finding.advice


@pytest.mark.parametrize(("each_ms", "found"), [(4.9, []), (5.9, ["garbage"])])
def test_a_twentieth_of_the_time_is_reported(
    tmp_path: Path, each_ms: float, found: list[str]
) -> None:
    run = write_training(tmp_path / "run", 0, noise=0.0, gc_ms=lambda tick: each_ms)
    assert [finding.rule for finding in diagnose(open_run(run))] == found


@pytest.mark.parametrize(("ticks", "found"), [(109, []), (112, ["garbage"])])
def test_less_than_a_second_is_not_reported(tmp_path: Path, ticks: int, found: list[str]) -> None:
    """Ten milliseconds in each tick after the warm-up, except the longest."""
    run = write_training(tmp_path / "run", 0, ticks=ticks, noise=0.0, gc_ms=lambda tick: 10)
    assert [finding.rule for finding in diagnose(open_run(run))] == found


def test_one_collection_is_not_reported(tmp_path: Path) -> None:
    """It is a slow tick with a known reason."""
    run = write_training(tmp_path / "run", 0, gc_ms=lambda tick: 4000 if tick == 200 else 0.1)
    finding = only(run)
    assert (finding.rule, finding.ticks) == ("slow-ticks", [200])
    assert "garbage collector" in finding.what
    assert "`gc.freeze()`" in finding.advice
    assert finding.evidence["excess_in_gc_ns"] == pytest.approx(4000 * MS, rel=0.01)


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.own = self


def test_a_loop_that_collects_in_every_tick(tmp_path: Path) -> None:
    gc.collect()
    gc.freeze()  # otherwise the objects of other tests would be searched sixty times
    try:
        heap = [Ring() for _ in range(500_000)]
        with Clock(tmp_path / "run", progress=False) as clock:
            for _ in clock.ticks(range(60)):
                with clock.phase("forward"):
                    gc.collect()
        assert len(heap) == 500_000
    finally:
        gc.unfreeze()
    found = {finding.rule: finding for finding in diagnose(open_run(tmp_path / "run"))}
    assert found["garbage"].evidence["share"] > 0.8
    assert "in nearly every tick" in found["garbage"].what
