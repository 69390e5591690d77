"""Rules about memory, GPUs and ranks, each with its cause planted."""

import math
import random
from pathlib import Path

import pytest

from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, diagnose

from ..store.tapes import MS, Phases, steady_memory, write_resources, write_training

SEEDS = range(3)
GIB = 2**30


def only(run: Path) -> Finding:
    found = diagnose(open_run(run))
    assert len(found) == 1, [finding.what for finding in found]
    return found[0]


def leaking(seed: int, column: str, seconds: int, rate: float) -> list[dict[str, float]]:
    """Samples in which one column rises by `rate` bytes a second, and the free memory falls."""
    samples = steady_memory(random.Random(seed), seconds)
    for second, sample in enumerate(samples):
        sample[column] += second * rate
        sample["machine_memory_available_bytes"] -= second * rate
    return samples


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("column", ["memory_bytes", "children_memory_bytes", "gpu0_memory_bytes"])
def test_memory_that_leaks(tmp_path: Path, seed: int, column: str) -> None:
    """Ten MiB a second, one MiB a tick."""
    run = write_training(tmp_path / "run", seed, ticks=100)
    write_resources(run, leaking(seed, column, 400, 10 * 2**20), ticks_per_second=10)
    finding = only(run)
    assert finding.rule == "memory"
    assert finding.evidence["bytes_per_tick"] == pytest.approx(2**20, rel=0.05)
    assert finding.evidence["bytes_per_hour"] == pytest.approx(3600 * 10 * 2**20, rel=0.05)
    if column.startswith("gpu"):
        assert finding.severity == "warning"
        assert "GPU 0" in finding.what
        assert "hours_left" not in finding.evidence
        return
    assert finding.severity == "critical"
    left = 16 * GIB - 400 * 10 * 2**20
    hours = left / (10 * 2**20) / 3600
    assert finding.evidence["available_bytes"] == pytest.approx(left, rel=0.05)
    assert finding.evidence["hours_left"] == pytest.approx(hours, rel=0.1)
    assert finding.evidence["ticks_left"] == pytest.approx(left / 2**20, rel=0.1)
    assert ("child processes" in finding.what) == (column == "children_memory_bytes")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_leak_of_one_rank(tmp_path: Path, seed: int) -> None:
    run = write_training(tmp_path / "run", seed, ticks=50, ranks=3)
    for rank in range(3):
        rate = 2**18 if rank == 1 else 0
        write_resources(run, leaking(seed + rank, "memory_bytes", 1000, rate), rank=rank)
    finding = only(run)
    assert (finding.rule, finding.severity) == ("memory", "critical")
    assert (finding.evidence["rank"], finding.evidence["ranks"]) == (1, [1])
    assert finding.evidence["bytes_per_hour"] == pytest.approx(3600 * 2**18, rel=0.1)


def test_a_leak_that_takes_days_is_not_urgent(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ticks=50)
    samples = leaking(0, "memory_bytes", 1000, 2**18)
    for second, sample in enumerate(samples):
        sample["machine_memory_available_bytes"] = 64 * GIB - second * 2**18
    write_resources(run, samples)
    finding = only(run)
    assert finding.severity == "warning"
    assert finding.evidence["hours_left"] == pytest.approx(64 * 4096 / 3600, rel=0.1)


def leaking_fast(seconds: int, mebibytes: float, **changes: float) -> list[dict[str, float]]:
    """Samples of a memory that rises by this much a second, with other values replaced."""
    return [
        {
            "memory_bytes": (1024 + second * mebibytes) * 2**20,
            "shared_memory_bytes": 2.0**28,
            "machine_memory_available_bytes": 16.0 * GIB,
        }
        | changes
        for second in range(seconds)
    ]


def rules(run: Path) -> list[str]:
    return [finding.rule for finding in diagnose(open_run(run))]


def test_a_leak_that_is_fast(tmp_path: Path) -> None:
    """At 60 MiB a second, a quarter of a minute is enough."""
    run = write_training(tmp_path / "run", 0, ticks=160)
    write_resources(run, leaking_fast(16, 60))
    finding = only(run)
    assert (finding.rule, finding.severity) == ("memory", "warning")
    assert finding.evidence["seconds"] == pytest.approx(11)
    assert finding.evidence["bytes_per_tick"] == pytest.approx(6 * 2**20)
    assert finding.evidence["hours_left"] == pytest.approx(16 * 1024 / 60 / 3600)
    assert "in 11 s" in finding.what
    assert "replay buffer" in finding.advice


@pytest.mark.parametrize(
    ("seconds", "mebibytes", "available", "found"),
    [
        (13, 60, 16, []),
        (14, 60, 16, ["memory"]),
        (16, 22, 16, []),  # 242 MiB within the record
        (16, 25, 16, ["memory"]),
        (16, 25, 90, []),  # 88 GiB an hour
        (16, 25, 85, ["memory"]),
        (58, 22, 16, ["memory"]),
    ],
)
def test_leaks_in_less_than_a_minute(
    tmp_path: Path, seconds: int, mebibytes: float, available: float, found: list[str]
) -> None:
    run = write_training(tmp_path / "run", 0, ticks=160)
    left = {"machine_memory_available_bytes": available * GIB}
    write_resources(run, leaking_fast(seconds, mebibytes, **left))
    assert rules(run) == found


@pytest.mark.parametrize("but", ["mapped", "not known", "back once", "before the first tick"])
def test_memory_that_rises_for_less_than_a_minute_without_a_leak(tmp_path: Path, but: str) -> None:
    run = write_training(tmp_path / "run", 0, ticks=160)
    samples = leaking_fast(16, 60)
    for sample in samples:
        if but == "mapped":
            sample["shared_memory_bytes"] = sample["memory_bytes"] - 2.0**29
        elif but == "not known":
            del sample["shared_memory_bytes"]
    if but == "back once":
        samples[10] = samples[8]
    write_resources(run, samples, ticks_per_second=0.06 if but == "before the first tick" else 10)
    assert rules(run) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_that_fills_up_does_not_leak(tmp_path: Path, seed: int) -> None:
    """As with the pages of a mapped corpus."""
    run = write_training(tmp_path / "run", seed, ticks=50)
    samples = steady_memory(random.Random(seed), 1000)
    for second, sample in enumerate(samples):
        sample["memory_bytes"] += 2 * GIB * (1 - math.exp(-second / 250))
    write_resources(run, samples)
    assert diagnose(open_run(run)) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_of_an_evaluation_does_not_leak(tmp_path: Path, seed: int) -> None:
    """One more GiB from the middle on: a step, not a leak."""
    run = write_training(tmp_path / "run", seed, ticks=50)
    samples = steady_memory(random.Random(seed), 600)
    for sample in samples[300:]:
        sample["memory_bytes"] += GIB
    write_resources(run, samples)
    assert diagnose(open_run(run)) == []


def test_columns_with_holes(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ticks=50)
    samples = leaking(0, "memory_bytes", 400, 10 * 2**20)
    for second, sample in enumerate(samples):
        if second % 3:
            del sample["machine_memory_available_bytes"]
        if second % 7 == 0:
            del sample["memory_bytes"]
    write_resources(run, samples)
    assert only(run).evidence["bytes_per_tick"] == pytest.approx(2**20, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_idle_gpu(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    run = write_training(tmp_path / "run", seed, ticks=400)
    samples = [
        {
            "gpu0_utilization": min(1, chance.gauss(0.9, 0.05)),
            "gpu1_utilization": min(1, max(0, chance.gauss(0.4, 0.2))),
            "gpu2_utilization": 0.0,
        }
        for _ in range(60)
    ]
    write_resources(run, samples)
    finding = only(run)
    assert (finding.rule, finding.severity) == ("idle-gpu", "warning")
    assert (finding.evidence["gpu"], finding.evidence["gpus"]) == (1, 1), "2 is not this run's"
    assert finding.evidence["utilization"] == pytest.approx(0.4, abs=0.1)


def test_no_gpu_is_used(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0)
    write_resources(run, [{"gpu0_utilization": 0.0, "gpu1_utilization": 0.0}] * 40)
    finding = only(run)
    assert (finding.rule, finding.severity) == ("idle-gpu", "notice")
    assert finding.evidence["gpus"] == 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("ranks", "late"), [(2, 1), (4, 3), (5, 0)])
@pytest.mark.parametrize("arrival", [True, False])
def test_a_straggler(tmp_path: Path, seed: int, ranks: int, late: int, arrival: bool) -> None:
    """Seven milliseconds more in the backward pass, during which all others wait."""

    def plant(tick: int, rank: int, phases: Phases) -> None:
        if rank == late:
            phases["backward"] += 7

    run = tmp_path / "run"
    write_training(run, seed, ticks=200, ranks=ranks, plant=plant, arrival=arrival)
    finding = only(run)
    assert (finding.rule, finding.severity) == ("straggler", "warning")
    assert (finding.evidence["rank"], finding.evidence["ranks"]) == (late, [late])
    assert finding.evidence["late_ns"] == pytest.approx(7 * MS, rel=0.2)
    assert finding.evidence["share"] == pytest.approx(7 / 107, rel=0.2)
    assert finding.evidence["late_ticks_share"] > 0.95  # type: ignore[operator]
    assert finding.what.startswith(f"Rank {late} {'arrives' if arrival else 'finishes'}")
    assert len(finding.ticks) == 10


@pytest.mark.parametrize("seed", SEEDS)
def test_two_stragglers_and_many_ticks(tmp_path: Path, seed: int) -> None:
    def plant(tick: int, rank: int, phases: Phases) -> None:
        phases["forward"] += {1: 6, 4: 9}.get(rank, 0)

    run = write_training(tmp_path / "run", seed, ticks=100, ranks=6, plant=plant)
    finding = only(run)
    assert (finding.evidence["rank"], finding.evidence["ranks"]) == (4, [1, 4])
    assert finding.evidence["late_ns"] == pytest.approx(9 * MS, rel=0.2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("arrival", [True, False])
def test_a_rank_that_is_sometimes_late_is_no_straggler(
    tmp_path: Path, seed: int, arrival: bool
) -> None:
    """The ranks take turns in being the last, and rank 0 evaluates."""

    def plant(tick: int, rank: int, phases: Phases) -> None:
        if tick % 4 == rank:
            phases["forward"] += 10
        if rank == 0 and tick % 50 == 0:
            phases["evaluate"] = 300

    run = tmp_path / "run"
    write_training(run, seed, ticks=200, ranks=4, plant=plant, arrival=arrival)
    assert diagnose(open_run(run)) == []
