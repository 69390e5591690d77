"""Rules about where time goes and how long ticks take, each with its cause planted."""

import random
from pathlib import Path

import pytest

from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, diagnose

from ..store.tapes import MS, PHASES_MS, REST_MS, Phases, Plant, write_resources, write_training

TICK_MS = sum(PHASES_MS.values()) + REST_MS
SEEDS = range(3)


def only(run: Path) -> Finding:
    """The only finding."""
    found = diagnose(open_run(run))
    assert len(found) == 1, [finding.what for finding in found]
    return found[0]


def slower(phase: str, ms: float, when: slice | None = None, every: int = 1) -> Plant:
    """A plant that adds milliseconds to a phase."""

    def plant(tick: int, rank: int, phases: Phases) -> None:
        within = when is None or when.start <= tick < when.stop
        if within and tick % every == 0:
            phases[phase] = phases.get(phase, 0) + ms

    return plant


@pytest.mark.parametrize("seed", SEEDS)
def test_data_bound(tmp_path: Path, seed: int) -> None:
    finding = only(write_training(tmp_path / "run", seed, plant=slower("data", 30)))
    assert (finding.rule, finding.severity) == ("data-bound", "warning")
    assert finding.evidence["share"] == pytest.approx(31 / (TICK_MS + 30), rel=0.02)
    assert finding.evidence["median_ns"] == pytest.approx(31 * MS, rel=0.02)
    assert "Nearly every tick waits" in finding.advice
    assert finding.ticks == []


@pytest.mark.parametrize("seed", SEEDS)
def test_data_bound_in_bursts(tmp_path: Path, seed: int) -> None:
    plant = slower("data", 2000, every=80)
    data = only(write_training(tmp_path / "run", seed, ticks=500, plant=plant))
    assert data.rule == "data-bound", "and no ticks that are slow besides"
    assert data.evidence["share"] == pytest.approx(26 / (TICK_MS + 25), rel=0.05)
    assert {80, 160, 240, 320, 400, 480} <= set(data.ticks)
    assert "Only a few ticks wait" in data.advice
    assert data.evidence["every_ticks"] == 80
    assert data.evidence["longest_ns"] == pytest.approx(2001 * MS, rel=0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_other_slow_ticks_of_a_run_that_waits_for_data(tmp_path: Path, seed: int) -> None:
    """The bursts are one finding; the ticks that are slow for another reason are another."""
    bursts, others = slower("data", 2000, every=80), slower("backward", 300, every=35)

    def plant(tick: int, rank: int, phases: Phases) -> None:
        bursts(tick, rank, phases)
        others(tick, rank, phases)

    run = write_training(tmp_path / "run", seed, ticks=500, plant=plant)
    data, slow = diagnose(open_run(run))
    assert (data.rule, slow.rule) == ("data-bound", "slow-ticks")
    assert slow.evidence["ticks"] == 14
    assert slow.evidence["every_ticks"] == 35
    assert slow.evidence["excess_ns"] == pytest.approx(14 * 300 * MS, rel=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_few_ticks_that_wait_for_data(tmp_path: Path, seed: int) -> None:
    """Too little of the time for `data-bound`: they are slow ticks."""
    plant = slower("data", 600, every=80)
    finding = only(write_training(tmp_path / "run", seed, ticks=500, plant=plant))
    assert finding.rule == "slow-ticks"
    assert finding.evidence["excess_in_data_ns"] == pytest.approx(6 * 600 * MS, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_data_bound_on_one_rank(tmp_path: Path, seed: int) -> None:
    """The others wait for it: it is a straggler for this reason."""

    def plant(tick: int, rank: int, phases: Phases) -> None:
        if rank == 2:
            phases["data"] += 30

    run = write_training(tmp_path / "run", seed, ticks=200, ranks=4, plant=plant)
    found = {finding.rule: finding for finding in diagnose(open_run(run))}
    assert set(found) == {"data-bound", "straggler"}
    assert found["data-bound"].evidence["rank"] == found["straggler"].evidence["rank"] == 2
    assert "on rank 2" in found["data-bound"].what


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("phase", ["backward", "communicate", "unattributed", "odd"])
def test_slow_ticks_and_their_phase(tmp_path: Path, seed: int, phase: str) -> None:
    chance = random.Random(seed)
    slow = sorted(chance.sample(range(30, 1000), 12))

    def plant(tick: int, rank: int, phases: Phases) -> None:
        if tick % 100 == 0:
            phases["evaluate"] = 300.0
        if tick in slow:
            phases[phase] = phases.get(phase, 0) + 300

    finding = only(write_training(tmp_path / "run", seed, ticks=1000, plant=plant))
    assert (finding.rule, finding.severity) == ("slow-ticks", "warning")
    assert finding.evidence["ticks"] == 12
    assert set(finding.ticks) <= set(slow)
    assert len(finding.ticks) == 10
    assert finding.evidence["excess_ns"] == pytest.approx(12 * 300 * MS, rel=0.02)
    assert finding.evidence[f"excess_in_{phase}_ns"] == pytest.approx(12 * 300 * MS, rel=0.05)
    assert finding.evidence["usual_ns"] == pytest.approx(TICK_MS * MS, rel=0.02)
    share = 12 * 300 / (1000 * TICK_MS + 12 * 300 + 3000 + 600)
    assert finding.evidence["share"] == pytest.approx(share, rel=0.03)
    assert ("no phase" if phase == "unattributed" else f"in {phase}") in finding.what
    assert "every_ticks" not in finding.evidence


@pytest.mark.parametrize("seed", SEEDS)
def test_slow_ticks_that_come_regularly(tmp_path: Path, seed: int) -> None:
    plant = slower("unattributed", 200, every=40)
    finding = only(write_training(tmp_path / "run", seed, plant=plant))
    assert finding.rule == "slow-ticks"
    assert finding.evidence["every_ticks"] == 40
    assert finding.ticks == list(range(40, 401, 40))


@pytest.mark.parametrize("seed", SEEDS)
def test_drift(tmp_path: Path, seed: int) -> None:
    """Thirty percent over the run, so the last fifth is 24% slower than the first."""

    def plant(tick: int, rank: int, phases: Phases) -> None:
        phases["forward"] += 0.3 * TICK_MS * tick / 600

    finding = only(write_training(tmp_path / "run", seed, ticks=600, noise=0.05, plant=plant))
    assert (finding.rule, finding.severity) == ("drift", "warning")
    assert finding.evidence["change"] == pytest.approx((1 + 0.27) / (1 + 0.035) - 1, abs=0.02)
    grown = finding.evidence["grown_in_forward_ns"]
    assert grown == pytest.approx(0.24 * TICK_MS * MS, rel=0.1)
    assert "gradually" in finding.what
    assert "in forward" in finding.what


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("since", [301, 421])
def test_drift_at_once(tmp_path: Path, seed: int, since: int) -> None:
    plant = slower("backward", 20, slice(since, 601))
    finding = only(write_training(tmp_path / "run", seed, ticks=600, plant=plant))
    assert finding.rule == "drift"
    assert finding.evidence["change"] == pytest.approx(0.2, abs=0.01)
    (tick,) = finding.ticks
    assert abs(tick - since) <= 30, "a twentieth of the run"
    assert finding.evidence["since_tick"] == tick


@pytest.mark.parametrize("seed", SEEDS)
def test_ticks_with_more_work_do_not_drift(tmp_path: Path, seed: int) -> None:
    def plant(tick: int, rank: int, phases: Phases) -> None:
        for name in ("forward", "backward"):
            phases[name] *= 1 + tick / 600

    def metrics(tick: int, rank: int) -> dict[str, float]:
        return {"tokens": 4096 * (1 + 0.85 * tick / 600)}

    run = tmp_path / "run"
    assert (
        diagnose(open_run(write_training(run, seed, ticks=600, plant=plant, metrics=metrics))) == []
    )
    run = tmp_path / "other"
    assert only(write_training(run, seed, ticks=600, plant=plant)).rule == "drift"


@pytest.mark.parametrize("seed", SEEDS)
def test_ticks_that_become_faster_are_no_finding(tmp_path: Path, seed: int) -> None:
    plant = slower("backward", 40, slice(0, 300))
    assert diagnose(open_run(write_training(tmp_path / "run", seed, ticks=600, plant=plant))) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_warm_up(tmp_path: Path, seed: int) -> None:
    plant = slower("forward", 30_000, slice(1, 2))
    finding = only(write_training(tmp_path / "run", seed, plant=plant))
    assert (finding.rule, finding.severity, finding.ticks) == ("warm-up", "notice", [1])
    assert finding.evidence["excess_ns"] == pytest.approx(30_570 * MS, rel=0.02)
    assert finding.evidence["share"] == pytest.approx(30.57 / (40 + 31), rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_unattributed(tmp_path: Path, seed: int) -> None:
    finding = only(write_training(tmp_path / "run", seed, plant=slower("unattributed", 30)))
    assert (finding.rule, finding.severity) == ("unattributed", "notice")
    assert finding.evidence["share"] == pytest.approx(32 / (TICK_MS + 30), rel=0.02)
    assert finding.evidence["mean_ns"] == pytest.approx(32 * MS, rel=0.02)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("phase", "ms", "share", "advised"),
    [("evaluate", 2000, 0.05, 380), ("checkpoint", 500, 0.01, 500)],
)
def test_planned_phases_that_take_too_long(
    tmp_path: Path, seed: int, phase: str, ms: float, share: float, advised: int
) -> None:
    finding = only(write_training(tmp_path / "run", seed, plant=slower(phase, ms, every=50)))
    assert (finding.rule, finding.severity) == (phase, "warning")
    assert finding.evidence["share"] == pytest.approx(ms / (50 * TICK_MS + ms), rel=0.05)
    assert finding.evidence["mean_ns"] == pytest.approx(ms * MS)
    assert finding.evidence["every_ticks"] == pytest.approx(50, rel=0.05)
    period = finding.evidence["advised_every_ticks"]
    assert ms / (period * TICK_MS + ms) == pytest.approx(share, rel=0.1)  # type: ignore[operator]
    assert period == pytest.approx(advised, rel=0.05)


def test_a_checkpoint_at_the_end_is_not_too_often(tmp_path: Path) -> None:
    plant = slower("checkpoint", 5000, slice(400, 401))
    assert diagnose(open_run(write_training(tmp_path / "run", 0, plant=plant))) == []


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_small_beats(tmp_path: Path, seed: int, gpu: bool) -> None:
    beats = 32 if gpu else 80
    run = write_training(tmp_path / "run", seed, beats=beats)
    sample = {"memory_bytes": 2 * 2**30, "machine_memory_available_bytes": 10 * 2**30}
    write_resources(run, [sample | ({"gpu0_utilization": 0.9} if gpu else {})] * 40)
    finding = only(run)
    assert (finding.rule, finding.severity) == ("small-beats", "notice")
    assert finding.evidence["beats"] == beats
    assert finding.evidence["beat_ns"] == pytest.approx(TICK_MS / beats * MS, rel=0.02)
    assert "2 GiB" in finding.advice
    assert "10 GiB" in finding.advice


def test_beats_of_a_cpu_may_be_shorter_than_those_of_a_gpu(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, beats=32)
    write_resources(run, [{"memory_bytes": 1.0, "machine_memory_available_bytes": 1.0}] * 40)
    assert diagnose(open_run(run)) == []
