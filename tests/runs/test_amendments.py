"""Values that were logged after a tick are in the row of that tick."""

import math
from pathlib import Path
from typing import Any

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.following import Follower
from metronorm.runs.goodput import goodput
from metronorm.runs.summary import summarize
from metronorm.store.sealing import seal_run

from ..clock import records
from ..clock.virtual import VirtualTime


def epochs(clock: Clock, time: VirtualTime, count: int = 2) -> None:
    """Record epochs of two ticks of 10 ns and an evaluation of 100 ns, after 1,000 ns."""
    for epoch in range(count):
        for _ in clock.ticks(range(2)):
            with clock.phase("forward"):
                time.pass_(7)
            time.pass_(3)
            clock.log(loss=1.0)
        time.pass_(1_000)
        with clock.phase("evaluate"):
            time.pass_(100)
        clock.log(val_loss=float(epoch))


def test_rows_are_the_same_while_a_run_is_written_and_when_it_is_sealed(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        epochs(clock, time)
        written = open_run(tmp_path / "run").ticks().rows()
    seal_run(tmp_path / "run")
    table = open_run(tmp_path / "run").ticks()
    assert table.rows() == written
    assert table.phases == ["forward", "evaluate", "unattributed"]
    assert table.metrics == ["loss", "val_loss"]
    assert [row["val_loss"] for row in written] == [None, 0.0, None, 1.0]
    assert [row["evaluate_ns"] for row in written] == [None, 100, None, 100]
    assert [row["wall_ns"] for row in written] == [10, 110, 10, 110]
    assert [row["beats"] for row in written] == [1] * 4
    ends = [row["time_ns"] for row in written]
    assert [end - ends[0] for end in ends] == [0, 1_110, 1_120, 2_230]


def test_every_column_can_be_read_alone(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        epochs(clock, time)
    ticks = open_run(tmp_path / "run").ticks()
    rows = ticks.rows()
    for name in ticks.columns:
        assert [row[name] for row in ticks.only(name).rows()] == [row[name] for row in rows]
    best = ticks.only("val_loss", "tick").sql("select arg_min(tick, val_loss) from ticks")
    assert best.fetchall() == [(2,)]
    both = open_run(tmp_path / "run").ticks_with_resources()
    assert [row["val_loss"] for row in both.rows()] == [None, 0.0, None, 1.0]


def test_summaries_and_goodput_count_the_evaluations(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        epochs(clock, time)
    found = summarize(open_run(tmp_path / "run"))
    assert found.ticks == 4
    assert found.measures["val_loss"].best == 0.0
    assert found.phases["evaluate"] == pytest.approx(200 / 240)
    spent = goodput(open_run(tmp_path / "run"))
    assert spent.forward == pytest.approx(240e-9)
    assert spent.overhead >= 0


def test_the_last_value_counts_and_phases_add_up(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for _ in clock.ticks(range(1)):
            with clock.phase("evaluate"):
                time.pass_(1)
            clock.log(loss=1.0, Other=1.0)
        for number in (2.0, math.nan):
            with clock.phase("evaluate"):
                time.pass_(10)
            clock.log(loss=number, new=number)
    (row,) = open_run(tmp_path / "run").ticks().rows()
    assert (row["evaluate_ns"], row["wall_ns"], row["Other"]) == (21, 21, 1.0)
    assert math.isnan(row["loss"])
    assert math.isnan(row["new"])


def test_phases_that_were_not_measured_leave_the_time_unattributed(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for _ in clock.ticks(range(1)):
            clock._recording.sampling.measured = False
            time.pass_(10)
        with clock.phase("evaluate"):
            time.pass_(100)
    (row,) = open_run(tmp_path / "run").ticks().rows()
    assert row["unattributed_ns"] == 10
    assert row["evaluate_ns"] == 100
    assert row["wall_ns"] == 110


def test_each_attempt_has_its_own(tmp_path: Path) -> None:
    for resume in (False, True):
        time = VirtualTime()
        with Clock(tmp_path / "run", progress=False, now=time, resume=resume) as clock:
            list(clock.ticks(range(3), initial=2 * resume))
            clock.log(val_loss=float(resume))
    run = open_run(tmp_path / "run")
    losses = [(row["attempt"], row["tick"], row["val_loss"]) for row in run.ticks("full").rows()]
    assert sorted(losses) == [
        (0, 1, None),
        (0, 2, None),
        (0, 3, 0.0),
        (1, 3, None),
        (1, 4, None),
        (1, 5, 1.0),
    ]
    effective = [(row["tick"], row["val_loss"]) for row in run.ticks().rows()]
    assert effective == [(1, None), (2, None), (3, None), (4, None), (5, 1.0)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"metrics": 3},
        {"metrics": {"loss": "low"}},
        {"phases": {"evaluate": 0.5}},
        {"phases": {"evaluate": 2**63}},
        {"note": "of the user's own"},
        {"tick": "x"},
    ],
)
def test_another_event_of_that_name_changes_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            clock.log(loss=1.0)
        clock.event("between", **fields)
    assert records.ticks(tmp_path / "run")[0]["metrics"] == {"loss": 1.0}
    assert open_run(tmp_path / "run").ticks().columns[-1] == "loss"


def test_a_follower_shows_it_under_its_tick(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        epochs(clock, time, 1)
        clock.flush()
        follower = Follower(tmp_path / "run")
        assert follower.read().latest["val_loss"] == 0.0
        epochs(clock, time, 2)
        clock.event("between", metrics=3)
        clock.flush()
        seen = follower.read()
    assert seen.latest["val_loss"] == 1.0
    assert seen.curves["val_loss"].points() == [(2, 0.0), (4, 0.0), (6, 1.0)]
    assert seen.phases["evaluate"] == pytest.approx(300 / 360)
