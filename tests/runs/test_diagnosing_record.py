"""Rules about the record itself and the ends of attempts, each with its cause planted."""

import contextlib
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.diagnosing import Finding, diagnose

from ..store.tapes import LIVE, MS, write_event, write_ticks, write_training


def only(run: Path) -> Finding:
    found = diagnose(open_run(run))
    assert len(found) == 1, [finding.what for finding in found]
    return found[0]


@pytest.mark.parametrize(("clock_ns", "severity"), [(3_000_000, "notice"), (8_000_000, "warning")])
def test_what_the_clock_costs(tmp_path: Path, clock_ns: int, severity: str) -> None:
    finding = only(write_training(tmp_path / "run", 0, clock_ns=clock_ns))
    assert (finding.rule, finding.severity) == ("clock-cost", severity)
    assert finding.evidence["share"] == pytest.approx(clock_ns / (101.4 * MS), rel=0.02)
    assert finding.evidence["usual_ns"] == clock_ns


def test_what_a_busy_machine_adds_is_no_cost_of_the_clock(tmp_path: Path) -> None:
    """1.5% of each tick, and in one tick of 400 another process had the CPU meanwhile."""
    run = write_training(tmp_path / "run", 0, ticks=399, clock_ns=1_500_000)
    write_training(run, 1, ticks=1, first=400, clock_ns=9_000 * MS)
    assert [finding.rule for finding in diagnose(open_run(run))] == []


def test_sampled_phases(tmp_path: Path) -> None:
    """Shares are of the ticks with phases, but the shares of evaluations are of all ticks."""
    run = tmp_path / "whole"
    write_training(run, 0, plant=lambda tick, rank, phases: phases.update(data=40.0))
    (whole,) = diagnose(open_run(run))
    records = open_run(run).ticks().rows()
    sampled = write_training(tmp_path / "run", 0, ticks=1)
    lines = []
    for row in records[1:]:
        names = ("data", "forward", "backward", "communicate", "update", "unattributed")
        phases = {name: row[f"{name}_ns"] for name in names} if row["tick"] % 4 == 0 else {}
        line = {name: row[name] for name in ("tick", "time_ns", "wall_ns", "beats")}
        lines.append(line | {"phases": phases, "metrics": {}})
    write_ticks(sampled, lines)
    write_event(sampled, "sampling", tick=64, every=2)
    write_event(sampled, "sampling", tick=128, every=4)
    write_event(sampled, "sampling", tick=192, every=1)
    data, notice = diagnose(open_run(sampled))
    assert (data.rule, notice.rule, notice.severity) == ("data-bound", "sampling", "notice")
    assert data.evidence["share"] == pytest.approx(whole.evidence["share"], rel=0.01)
    assert (notice.evidence["every"], notice.ticks) == (4, [128])


def test_no_slow_ticks_are_found_where_evaluations_are_not_known(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ticks=1)
    phases = {"forward": 50 * MS, "backward": 49 * MS, "unattributed": MS}
    write_ticks(
        run,
        (
            {
                "tick": tick,
                "time_ns": tick * 100 * MS,
                "wall_ns": (400 if tick % 50 == 0 else 100) * MS,
                "beats": 1,
                "phases": (phases | ({"evaluate": 300 * MS} if tick % 50 == 0 else {}))
                if tick % 4 == 0
                else {},
                "metrics": {},
            }
            for tick in range(2, 500)
        ),
    )
    assert diagnose(open_run(run)) == []


def test_dropped_records(tmp_path: Path) -> None:
    """An event counts all that its tape has lost so far."""
    run = write_training(tmp_path / "run", 0, ranks=2, ticks=50)
    fields = {"kind": "ticks", "error": "No space left on device"}
    write_event(run, "dropped", tick=20, records=5, first_tick=12, last_tick=16, **fields)
    write_event(run, "dropped", tick=40, records=8, first_tick=12, last_tick=33, **fields)
    write_event(run, "dropped", tick=30, rank=1, records=2, first_tick=25, last_tick=26, **fields)
    finding = only(run)
    assert (finding.rule, finding.severity) == ("dropped", "critical")
    assert finding.evidence == {"records": 10, "first_tick": 12, "last_tick": 33}
    assert "No space left on device" in finding.what
    assert finding.ticks == [12, 25]


def test_missing_ticks(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ranks=2, ticks=50)
    tape = run / "ticks" / "attempt=0" / "rank=1" / LIVE
    lines = tape.read_bytes().splitlines(keepends=True)
    tape.write_bytes(b"".join(lines[:20] + lines[23:40] + lines[41:]))
    finding = only(run)
    assert (finding.rule, finding.severity) == ("missing-ticks", "warning")
    assert finding.evidence == {"missing": 4, "rank": 1}
    assert finding.ticks == [21, 41]


@pytest.mark.parametrize("seed", range(3))
def test_replayed_ticks(tmp_path: Path, seed: int) -> None:
    """Each attempt does 100 ticks; the next begins 40 before its end."""
    run = tmp_path / "run"
    for attempt in range(3):
        write_training(run, seed + attempt, ticks=100, first=1 + 60 * attempt, attempt=attempt)
    finding = only(run)
    assert (finding.rule, finding.severity) == ("replay", "warning")
    assert finding.evidence["attempts"] == 3
    assert finding.evidence["ticks"] == 80
    assert finding.evidence["lost_ns"] == pytest.approx(80 * 100 * MS, rel=0.02)
    assert finding.evidence["share"] == pytest.approx(80 / 300, rel=0.1)
    assert finding.ticks == [61, 121]


def test_a_branch_is_no_loss(tmp_path: Path) -> None:
    """The second attempt does 40 ticks again after a kill, the third goes back by choice."""
    run = tmp_path / "run"
    for attempt, first in enumerate((1, 61, 31)):
        write_training(run, attempt, ticks=100, first=first, attempt=attempt)
    write_event(run, "resume", tick=60, attempt=1, checkpoint="tick-00000060", changed=[])
    write_event(run, "branch", tick=30, attempt=2, checkpoint="tick-00000030", changed=[])
    replayed, branch = diagnose(open_run(run))
    assert (replayed.rule, replayed.severity, replayed.ticks) == ("replay", "warning", [61])
    assert replayed.evidence["ticks"] == 40
    assert replayed.evidence["lost_ns"] == pytest.approx(40 * 100 * MS, rel=0.02)
    assert (branch.rule, branch.severity, branch.ticks) == ("branch", "notice", [31])
    assert branch.evidence["ticks"] == 130, "30 of the first attempt, all of the second"
    assert branch.evidence["share"] == pytest.approx(130 / 300, rel=0.1)
    assert "no loss" in branch.what


def test_attempts_that_were_interrupted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for attempt in range(6):
        write_training(run, attempt, ticks=10, first=1 + 10 * attempt, attempt=attempt)
        folder = run / "events" / f"attempt={attempt}" / "rank=0"
        if attempt in (0, 1, 3):
            (folder / LIVE).unlink()
        if attempt == 3:
            write_event(run, "end", tick=40, attempt=3, error="OSError", message="")
    finding = only(run)
    assert (finding.rule, finding.severity) == ("restarts", "notice")
    assert finding.evidence == {"attempts": 6, "broken": 3, "errors": 1}


def test_stalls(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ranks=2, ticks=50)
    write_event(run, "stall", tick=30, seconds=61.0, stacks="...")
    write_event(run, "stall", tick=42, rank=1, seconds=75.5, stacks="...")
    finding = only(run)
    assert (finding.rule, finding.severity, finding.ticks) == ("stall", "warning", [30, 42])
    assert finding.evidence == {"stalls": 2, "seconds": 75.5, "rank": 1}


def test_a_run_that_ended_with_an_error(tmp_path: Path) -> None:
    with contextlib.suppress(ValueError), Clock(tmp_path / "run", progress=False) as clock:
        for tick in clock.ticks(range(1, 9)):
            if tick == 5:
                raise ValueError("an odd\nmessage " + 200 * "!")
    finding = only(tmp_path / "run")
    assert (finding.rule, finding.severity, finding.ticks) == ("failed", "critical", [5])
    assert "ValueError at tick 5: an odd message !!!" in finding.what
    assert finding.what.endswith("! [...].")


def test_the_first_of_several_ranks_that_failed(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ranks=3, ticks=50)
    write_event(run, "end", tick=52, rank=0, error="RuntimeError", message="connection closed")
    write_event(run, "end", tick=51, rank=2, error="ValueError", message="shape")
    finding = only(run)
    assert finding.evidence == {"rank": 2, "ranks": [0, 2], "attempt": 0}
    assert "ValueError at tick 51 on rank 2" in finding.what


def test_an_error_of_an_older_attempt_and_a_stop_by_a_person(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ticks=50)
    write_event(run, "end", tick=51, error="OSError", message="")
    write_training(run, 1, ticks=50, first=51, attempt=1)
    write_event(run, "end", tick=101, attempt=1, error="KeyboardInterrupt", message="")
    assert diagnose(open_run(run)) == []


def test_checkpoints_that_failed(tmp_path: Path) -> None:
    run = write_training(tmp_path / "run", 0, ticks=50)
    for tick in (20, 40):
        write_event(run, "checkpoint failed", tick=tick, error="No space left on device")
    finding = only(run)
    assert (finding.rule, finding.severity, finding.ticks) == (
        "checkpoint-failed",
        "critical",
        [20, 40],
    )
    assert finding.evidence["checkpoints"] == 2
