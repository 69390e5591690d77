"""The rule about ticks in which the loop stands still, each with its cause planted."""

from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, diagnose

from ..clock.virtual import VirtualTime
from ..store.tapes import MS, Phases, Plant, write_event, write_training


def only(run: Path) -> Finding:
    found = diagnose(open_run(run))
    assert len(found) == 1, [finding.what for finding in found]
    return found[0]


def long_ticks(seconds: float, *ticks: int, phase: str = "forward") -> Plant:
    def plant(tick: int, rank: int, phases: Phases) -> None:
        if tick in ticks:
            phases[phase] = phases.get(phase, 0) + seconds * 1000

    return plant


@pytest.mark.parametrize("phase", ["data", "forward", "communicate", "unattributed"])
def test_a_loop_that_stands_still_once(tmp_path: Path, phase: str) -> None:
    """It is one finding: the time for data, or in no phase, is in this tick alone."""
    plant = long_ticks(14, 251, phase=phase)
    finding = only(write_training(tmp_path / "run", 0, ranks=2, plant=plant))
    assert (finding.rule, finding.severity, finding.ticks) == ("stall", "warning", [251])
    assert finding.evidence["seconds"] == pytest.approx(14.1, abs=0.1)
    assert finding.evidence["share"] == pytest.approx(14.1 / (14 + 40 + 0.6), rel=0.02)
    where = "in no phase" if phase == "unattributed" else f"in {phase}"
    assert finding.what.endswith(f"at tick 251 on rank 0, for 14.1 s, {where}.")
    assert "at_least_seconds=5" in finding.advice


@pytest.mark.parametrize(("seconds", "rule"), [(9.88, "slow-ticks"), (9.92, "stall")])
def test_ten_seconds_are_long(tmp_path: Path, seconds: float, rule: str) -> None:
    run = write_training(tmp_path / "run", 0, noise=0.0, plant=long_ticks(seconds, 251))
    assert only(run).rule == rule


@pytest.mark.parametrize(("times", "rule"), [(18.9, "slow-ticks"), (19.1, "stall")])
def test_twenty_usual_ticks_are_long(tmp_path: Path, times: float, rule: str) -> None:
    """In a loop with ticks of a second."""
    long = long_ticks(times, 151)

    def plant(tick: int, rank: int, phases: Phases) -> None:
        phases["backward"] += 900
        long(tick, rank, phases)

    assert only(write_training(tmp_path / "run", 0, ticks=200, noise=0.0, plant=plant)).rule == rule


@pytest.mark.parametrize(("ticks", "severity"), [(5600, "warning"), (6200, "notice")])
def test_a_small_share_of_the_time_is_a_notice(tmp_path: Path, ticks: int, severity: str) -> None:
    run = write_training(tmp_path / "run", 0, ticks=ticks, noise=0.0, plant=long_ticks(12, 1234))
    finding = only(run)
    assert (finding.rule, finding.severity) == ("stall", severity)


@pytest.mark.parametrize(
    ("ticks", "rule"),
    [
        ((31, 99, 230), "stall"),
        ((31, 99, 230, 300), "slow-ticks"),
        ((100, 200, 300), "slow-ticks"),
        ((101, 201), "slow-ticks"),
    ],
)
def test_long_ticks_that_are_frequent_or_regular_are_no_stalls(
    tmp_path: Path, ticks: tuple[int, ...], rule: str
) -> None:
    finding = only(write_training(tmp_path / "run", 0, plant=long_ticks(12, *ticks)))
    assert (finding.rule, finding.ticks) == (rule, list(ticks))


@pytest.mark.parametrize("phase", ["evaluate", "checkpoint", "sample", "prune"])
def test_a_phase_that_most_ticks_lack_takes_long_on_purpose(tmp_path: Path, phase: str) -> None:
    run = write_training(tmp_path / "run", 0, plant=long_ticks(14, 251, phase=phase))
    assert "stall" not in [finding.rule for finding in diagnose(open_run(run))]


@pytest.mark.parametrize("tick", [3, 400])
def test_neither_the_warm_up_nor_what_comes_after_the_loop(tmp_path: Path, tick: int) -> None:
    run = write_training(tmp_path / "run", 0, plant=long_ticks(14, tick))
    assert "stall" not in [finding.rule for finding in diagnose(open_run(run))]


def test_an_event_of_the_watch_is_the_same_stall(tmp_path: Path) -> None:
    """The event has the tick before, which was the last to end, and a time that still grew."""
    run = write_training(tmp_path / "run", 0, plant=long_ticks(80, 251))
    write_event(run, "stall", tick=250, seconds=60.5, stacks="...")
    write_event(run, "stall", tick=400, seconds=61.5, stacks="...")
    finding = only(run)
    assert (finding.rule, finding.severity, finding.ticks) == ("stall", "warning", [251, 400])
    assert finding.evidence["stalls"] == 2
    assert finding.evidence["seconds"] == pytest.approx(80.1, abs=0.1)
    assert "2 times, the longest at tick 251, for 1.33 min, in forward" in finding.what
    assert "stacks of all threads: read them in run.events()" in finding.advice


def test_a_loop_of_milliseconds_without_phases(tmp_path: Path) -> None:
    """With records of the clock, not with those that the tests write."""
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for number in clock.ticks(range(600)):
            time.pass_(14_000 * MS if number == 300 else 3 * MS)
    found = {finding.rule: finding for finding in diagnose(open_run(tmp_path / "run"))}
    assert set(found) == {"stall", "unattributed"}, "all of its time is in no phase"
    assert found["stall"].ticks == [301]
