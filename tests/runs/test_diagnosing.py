"""Runs that are well, runs that are broken, and what holds of every finding."""

import random
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, at_least, diagnose

from ..clock.virtual import VirtualTime
from ..store.tapes import (
    Phases,
    steady_memory,
    write_event,
    write_resources,
    write_run,
    write_ticks,
    write_training,
)


def evaluate_and_save(chance: random.Random, tick: int, rank: int, phases: Phases) -> None:
    """Three percent for evaluations on every rank, half a percent for checkpoints on one."""
    if tick % 100 == 0:
        phases["evaluate"] = 300 * chance.lognormvariate(0, 0.1)
    if tick % 200 == 0 and rank == 0:
        phases["checkpoint"] = 100 * chance.lognormvariate(0, 0.1)


def usual_garbage(tick: int) -> float:
    """What is young in every tick, all of it now and then."""
    return 80.0 if tick % 250 == 49 else 0.3


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    ticks=st.sampled_from([1, 15, 25, 60, 150, 400, 1200]),
    ranks=st.sampled_from([1, 1, 2, 4]),
    beats=st.sampled_from([1, 8]),
    noise=st.sampled_from([0.0, 0.01, 0.03, 0.1, 0.25]),
    seconds=st.sampled_from([0, 1, 30, 100, 900]),
)
def test_nothing_is_found_in_a_healthy_run(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    ticks: int,
    ranks: int,
    beats: int,
    noise: float,
    seconds: int,
) -> None:
    run = tmp_path_factory.mktemp("well") / "run"
    chance = random.Random(seed)
    write_training(
        run,
        seed,
        ticks=ticks,
        ranks=ranks,
        beats=beats,
        noise=noise,
        plant=lambda *tick: evaluate_and_save(chance, *tick),
        arrival=chance.random() < 0.5,
        gc_ms=usual_garbage if chance.random() < 0.5 else None,
    )
    for rank in range(ranks):
        write_resources(run, steady_memory(chance, seconds), rank=rank)
    assert diagnose(open_run(run)) == []
    shutil.rmtree(run)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_a_resumed_run(tmp_path: Path, seed: int) -> None:
    run = tmp_path / "run"
    write_training(run, seed, ticks=200)
    write_training(run, seed + 1, ticks=200, first=201, attempt=1)
    assert diagnose(open_run(run)) == []


def test_nothing_is_found_in_an_empty_run(tmp_path: Path) -> None:
    assert diagnose(open_run(write_run(tmp_path / "empty"))) == []
    with Clock(tmp_path / "begun", progress=False) as clock:
        assert diagnose(open_run(tmp_path / "begun")) == [], "no tick yet"
        for _ in clock.ticks(range(3)):
            assert diagnose(open_run(tmp_path / "begun")) == []
    run = write_run(tmp_path / "only events")
    write_event(run, "start")
    write_resources(run, steady_memory(random.Random(0), 100))
    assert diagnose(open_run(run)) == []


def test_ticks_without_phases_and_metrics(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_ticks(
        run,
        (
            {"tick": tick, "time_ns": tick * 10**8, "wall_ns": 10**8, "beats": 1}
            | {"phases": {}, "metrics": {}}
            for tick in range(1, 200)
        ),
    )
    assert diagnose(open_run(run)) == []


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["", "{}", "garbage", "[1]"])),
        max_size=4,
    )
)
def test_damaged_lines_are_skipped(
    tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[float, float, str]]
) -> None:
    """Wherever a line is cut, and whatever replaces the rest of it."""
    run = tmp_path_factory.mktemp("damaged") / "run"
    write_training(run, 1, ticks=60, ranks=2)
    write_resources(run, steady_memory(random.Random(1), 80))
    tapes = sorted(run.glob("*/*/*/*.jsonl"))
    for place, at, put in damages:
        tape = tapes[int(place * (len(tapes) - 1))]
        data = tape.read_text()
        cut = int(at * len(data))
        end = data.find("\n", cut)
        tape.write_text(data[:cut] + put + (data[end:] if end >= 0 else ""))
    rules = {finding.rule for finding in diagnose(open_run(run))}
    assert rules <= {"missing-ticks"}
    shutil.rmtree(run)


def test_the_worst_comes_first_and_findings_are_plain_data(tmp_path: Path) -> None:
    def plant(tick: int, rank: int, phases: Phases) -> None:
        phases["data"] += 20
        phases["unattributed"] += 60

    run = write_training(tmp_path / "run", 0, ticks=100, plant=plant)
    write_event(run, "stall", tick=50, seconds=70.0, stacks="...")
    write_event(run, "end", tick=101, error="ValueError", message="no")
    found = diagnose(open_run(run))
    rules = ["failed", "data-bound", "stall", "unattributed"]
    assert [finding.rule for finding in found] == rules
    severities = ["critical", "warning", "warning", "notice"]
    assert [finding.severity for finding in found] == severities
    assert [finding.rule for finding in at_least(found, "warning")] == rules[:3]
    assert at_least(found, "critical") == found[:1]
    assert at_least(found, "notice") == found
    for finding in found:
        assert finding.what.endswith(".")
        assert finding.advice.endswith(".")
        assert len(finding.ticks) <= 10
        for value in finding.evidence.values():
            assert isinstance(value, int | float | list)
        assert msgspec.json.decode(msgspec.json.encode(finding), type=Finding) == finding


def test_the_clock_itself_and_the_same_run_twice(tmp_path: Path) -> None:
    """With records of the clock, not with those that the tests write."""
    time = VirtualTime()

    def batches() -> list[int]:
        time.pass_(40_000_000)
        return [0]

    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for _ in range(60):
            for _ in clock.ticks(iter(batches, None), total=clock.tick + 1):
                with clock.phase("forward"):
                    time.pass_(60_000_000)
                clock.log(loss=1.0)
    run = open_run(tmp_path / "run")
    (finding,) = diagnose(run)
    assert finding.rule == "data-bound"
    assert finding.evidence["share"] == pytest.approx(0.4)
    assert finding.evidence["median_ns"] == 40_000_000
    assert diagnose(run) == [finding]
