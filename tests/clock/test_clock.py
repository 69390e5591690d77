import copy
import logging
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError
from metronorm.runs import open_run

from . import records
from .virtual import VirtualTime


def slow_loader(time: VirtualTime, waits: list[int]) -> Iterator[int]:
    for number, wait in enumerate(waits):
        time.pass_(wait)
        yield number


def test_a_tick_is_a_line_with_its_phases_and_metrics(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for batch in clock.ticks(slow_loader(time, [3, 4])):
            with clock.phase("forward"):
                time.pass_(10 * (batch + 1))
            time.pass_(2)
            clock.log(loss=2.5, tokens=64)
            clock.log(loss=1.5)
            assert clock.tick == batch + 1
    first, second = records.ticks(tmp_path / "run")
    assert first["tick"] == 1
    assert first["wall_ns"] == 15
    assert first["phases"] == {"data": 3, "forward": 10, "unattributed": 2}
    assert first["metrics"] == {"loss": 1.5, "tokens": 64}
    assert second["phases"] == {"data": 4, "forward": 20, "unattributed": 2}
    assert second["time_ns"] - first["time_ns"] == second["wall_ns"] == 26


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * 4), min_size=1, max_size=8))
def test_phases_add_up_to_the_wall_on_the_tape(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[tuple[int, int, int, int]]
) -> None:
    run = tmp_path_factory.mktemp("clock") / "run"
    time = VirtualTime()
    with Clock(run, progress=False, now=time) as clock:
        moments = [time()]
        for _, (_, forward, update, rest) in zip(
            clock.ticks(slow_loader(time, [wait for wait, *_ in ticks])), ticks, strict=True
        ):
            with clock.phase("forward"):
                time.pass_(forward)
            with clock.phase("update"):
                time.pass_(update)
            time.pass_(rest)
            moments.append(time())
    for record, (begun, ended) in zip(records.ticks(run), pairwise(moments), strict=True):
        assert record["wall_ns"] == ended - begun
        assert sum(record["phases"].values()) == record["wall_ns"]


def test_micro_batches_come_as_windows(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        windows = list(clock.ticks(range(7), micro_batches=3))
    assert windows == [[0, 1, 2], [3, 4, 5], [6]]
    assert [record["beats"] for record in records.ticks(tmp_path / "run")] == [3, 3, 1]


def test_empty_batches_are_batches(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        assert list(clock.ticks([(), [], None, 0])) == [(), [], None, 0]
        assert list(clock.ticks([])) == []
        assert list(clock.ticks([], micro_batches=2)) == []
    assert len(records.ticks(tmp_path / "run")) == 4


def test_total_stops_without_taking_another_batch(tmp_path: Path) -> None:
    loader = iter(range(100))
    with Clock(tmp_path / "run", progress=False) as clock:
        assert list(clock.ticks(loader, total=3)) == [0, 1, 2]
    assert next(loader) == 3


def test_total_can_be_planned_anew_in_the_loop(tmp_path: Path) -> None:
    with Clock(tmp_path / "run") as clock:
        assert clock.total is None
        for number in clock.ticks(range(100), total=50):
            if number == 2:
                clock.total = 4
        assert (clock.tick, clock.total) == (4, 4)
        for _ in clock.ticks(range(100)):
            clock.total = 2  # a tick that is over
        assert clock.tick == 5
        for _ in clock.ticks(range(9), total=7):
            clock.total = None
        assert clock.tick == 14
        with pytest.raises(ConfigError, match="total must be the number of a tick"):
            clock.total = 2.5  # type: ignore[assignment]


def test_initial_and_several_loops_continue_the_count(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(2), initial=10))
        list(clock.ticks(range(2)))
    assert [record["tick"] for record in records.ticks(tmp_path / "run")] == [11, 12, 13, 14]


def test_break_keeps_the_tick_and_an_error_does_not(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for batch in clock.ticks(range(10)):
            if batch == 2:
                break
    assert [record["tick"] for record in records.ticks(tmp_path / "run")] == [1, 2, 3]

    def fail(clock: Clock) -> None:
        for batch in clock.ticks(range(10)):
            if batch == 2:
                raise KeyError("broken batch")

    with pytest.raises(KeyError), Clock(tmp_path / "failed", progress=False) as clock:
        fail(clock)
    assert [record["tick"] for record in records.ticks(tmp_path / "failed")] == [1, 2]
    end = records.events(tmp_path / "failed")[-1]
    assert end["event"] == "end"
    assert end["fields"] == {"error": "KeyError", "message": "'broken batch'"}


def test_stop_ends_the_loop_with_its_tick_on_the_tape(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for batch in clock.ticks(range(10)):
            if batch == 2:
                clock.stop()
            clock.log(batch=batch)
        assert [record["metrics"]["batch"] for record in records.ticks(tmp_path / "run")] == [
            0,
            1,
            2,
        ]
        assert list(clock.ticks(range(2))) == [0, 1], "the next loop is another"


def test_numbers_of_any_library(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            clock.log(
                a=np.float32(0.5), b=np.int64(3), c=True, d=float("nan"), e=-math.inf, f=1e308 * 10
            )
    metrics = records.ticks(tmp_path / "run")[0]["metrics"]
    assert math.isnan(metrics.pop("d"))
    assert metrics == {"a": 0.5, "b": 3, "c": 1, "e": -math.inf, "f": math.inf}


def test_non_finite_numbers_survive_the_round_trip(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for value in clock.ticks([float("nan"), float("inf"), -float("inf"), 1e-320, -0.0]):
            clock.log(value=value)
    read = [row["value"] for row in open_run(tmp_path / "run").ticks().rows()]
    assert math.isnan(read[0])
    assert read[1:] == [math.inf, -math.inf, 1e-320, -0.0]
    assert math.copysign(1, read[4]) == -1


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (Decimal("0.125"), 0.125),
        (Decimal("1e400"), math.inf),
        (Decimal("NaN"), math.nan),
        (Fraction(1, 8), 0.125),
        (np.longdouble("0.125"), 0.125),
        (np.float16(0.125), 0.125),
        (np.ma.masked, math.nan),
        (np.ma.array(5.0, mask=True), math.nan),
        (np.ma.array([5.0], mask=[False]), 5.0),
        (10**400, math.inf),
    ],
    ids=repr,
)
def test_numbers_are_what_float_takes(tmp_path: Path, value: Any, number: float) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            clock.log(loss=value)
    (found,) = records.ticks(tmp_path / "run")
    assert found["metrics"] == {"loss": pytest.approx(number, rel=0, abs=0, nan_ok=True)}


@pytest.mark.parametrize("name", ["self", "name", "metrics", "clock", "args"])
def test_a_metric_may_be_called_like_an_argument(tmp_path: Path, name: str) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            clock.log(**{name: 1.0})
            clock.event("told", **{name: 1.0})
    assert records.ticks(tmp_path / "run")[0]["metrics"] == {name: 1.0}
    assert {name: 1.0} in [event["fields"] for event in records.events(tmp_path / "run")]


@pytest.mark.parametrize("value", ["text", None, [1.0], np.zeros(2), object(), 1j])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: object) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            with pytest.raises(ConfigError, match="a metric must be one number"):
                clock.log(loss=value)
            clock.log(loss=1.0)
    assert records.ticks(tmp_path / "run")[0]["metrics"] == {"loss": 1.0}


@pytest.mark.parametrize("name", ["tick", "rank", "attempt", "beats", "wall_ns", "forward_ns"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    with (
        Clock(tmp_path / "run", progress=False) as clock,
        pytest.raises(ConfigError, match="name must not be empty or one of the record's own"),
    ):
        clock.log(**{name: 1.0})


def test_events_hold_anything(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(2)):
            clock.event("checkpoint", path=Path("a/b"), list=[1, 2])
    events = [event for event in records.events(tmp_path / "run") if event["event"] == "checkpoint"]
    assert [event["tick"] for event in events] == [1, 2]
    assert events[0]["fields"] == {"path": "a/b", "list": [1, 2]}


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be entered"):
        Clock(tmp_path / "run").ticks(range(1))
    with Clock(tmp_path / "run") as clock, pytest.raises(ConfigError, match="at least 1"):
        clock.ticks(range(1), micro_batches=0)
    with pytest.raises(RunError, match="needs a directory of its own"), Clock(tmp_path / "run"):
        pass
    with pytest.raises(RunError, match="which does not exist"), Clock(tmp_path / "no", resume=True):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="must be writable"), Clock(tmp_path / "file" / "run"):
        pass
    with (
        pytest.raises(ConfigError, match="plain JSON"),
        Clock(tmp_path / "x", config={"a": object()}),
    ):
        pass
    assert not (tmp_path / "x").exists()


def test_run_json_says_what_the_run_is(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", config={"learning_rate": 0.1}, progress=False):
        pass
    info = msgspec.json.decode((tmp_path / "run" / "run.json").read_bytes())
    assert info["schema"] == 1
    assert info["name"] == "run"
    assert info["config"] == {"learning_rate": 0.1}
    assert info["versions"]["python"]
    assert info["host"]["cores"] >= 1
    assert list((tmp_path / "run").glob(".*.tmp")) == []


def test_the_bar_shows_tick_loss_speed_and_remaining_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", now=time) as clock:
        for _ in clock.ticks(range(40)):
            time.pass_(1_000_000_000)
            clock.log(loss=2.0, tokens=500)
    drawn = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    # not a terminal: a line at once, then every ten seconds, and the end
    assert len(drawn) == 5
    assert "40/40" in drawn[-1]
    assert "loss 2.0000," in drawn[-1]
    assert "500 tokens/s" in drawn[-1]


@pytest.mark.parametrize(
    ("loss", "shown"),
    [(3e-6, "3.0000e-06"), (1e22, "1.0000e+22"), (12345.6, "12346"), (math.nan, "nan")],
)
def test_the_bar_shows_a_loss_of_any_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: float, shown: str
) -> None:
    with Clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            clock.log(loss=loss)
    assert f"loss {shown}]" in capsys.readouterr().err


def test_a_run_that_lost_nothing_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(3)))
    assert clock.dropped == 0
    assert caplog.text == ""


def test_a_closed_clock_warns_once_that_it_records_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(3)))
    assert caplog.text == ""
    assert list(clock.ticks(range(2))) == [0, 1], "training goes on"
    clock.log(loss=1.0)
    clock.event("late")
    clock.begin_tick()
    clock.end_tick()
    clock.pause()
    assert [each.getMessage() for each in caplog.records] == [
        "a clock is closed: what is given to it now is not recorded"
    ]
    assert len(records.ticks(tmp_path / "run")) == 3
    with pytest.raises(ConfigError, match="a clock is opened once"):
        clock.open()


@pytest.mark.parametrize("way", ["log", "event", "ticks"])
def test_every_method_of_a_closed_clock_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        pass
    if way == "log":
        clock.log(loss=1.0)
    elif way == "event":
        clock.event("late")
    else:
        list(clock.ticks(range(1)))
    assert "is not recorded" in caplog.text


def use(clock: Clock) -> None:
    """Everything that a training does with a clock."""
    with clock:
        for number in clock.ticks(range(3)):
            with clock.phase("forward"):
                clock.log(loss=number)
        clock.log(val_loss=1.0)
        clock.event("told")
        clock.begin_tick()
        clock.end_tick()
        clock.pause()
        assert clock.flush()


@pytest.mark.parametrize(
    "sent", [copy.copy, copy.deepcopy, lambda clock: pickle.loads(pickle.dumps(clock))]
)
def test_a_copy_of_a_clock_does_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: Callable[[Clock], Clock]
) -> None:
    with Clock(tmp_path / "run", progress=True, now=VirtualTime()) as clock:
        list(clock.ticks(range(2)))
        there = sent(clock)
        assert (there.directory, there.tick) == (clock.directory, 2)
        use(there)
        there.close()
        clock.log(val_loss=0.5)
    assert len(records.ticks(tmp_path / "run")) == 2
    assert [event["event"] for event in records.events(tmp_path / "run")] == [
        "start",
        "between",
        "end",
    ]
    assert caplog.text == ""


def test_a_worker_that_is_spawned_gets_a_clock_that_does_nothing(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(f"""
import multiprocessing
from metronorm.clock import Clock

def work(clock):
    for number in clock.ticks(range(3)):
        clock.log(loss=-1.0)

if __name__ == "__main__":
    with Clock({str(tmp_path / "run")!r}, progress=False) as clock:
        for _ in clock.ticks(range(2)):
            worker = multiprocessing.get_context("spawn").Process(target=work, args=(clock,))
            worker.start()
            worker.join()
            assert worker.exitcode == 0
""")
    subprocess.run([sys.executable, "-W", "error", str(script)], check=True, timeout=120)
    assert [tick["metrics"] for tick in records.ticks(tmp_path / "run")] == [{}, {}]
