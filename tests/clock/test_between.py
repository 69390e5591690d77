"""Values that are logged after a tick, before the first one, and in one that never ends."""

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metronorm.clock import Clock
from metronorm.errors import ConfigError

from . import records
from .fake_device import FakeDevice
from .virtual import VirtualTime


def fields_of(run: Path, name: str = "between") -> list[tuple[int, dict[str, Any]]]:
    """Tick and fields of each event with this name."""
    return [(each["tick"], each["fields"]) for each in records.events(run) if each["event"] == name]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [tick["metrics"] for tick in records.ticks(run)]


def test_values_logged_after_an_epoch_belong_to_its_last_tick(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for epoch in range(3):
            for _ in clock.ticks(range(2)):
                time.pass_(10)
                clock.log(loss=1.0)
            with clock.phase("evaluate"):
                time.pass_(100 + epoch)
            clock.log(val_loss=epoch)
    assert fields_of(tmp_path / "run") == [
        (2 * (epoch + 1), {"metrics": {"val_loss": epoch}, "phases": {"evaluate": 100 + epoch}})
        for epoch in range(3)
    ]


@pytest.mark.parametrize("way", ["break", "break with a kept iterator", "total", "stop"])
def test_values_after_a_loop_belong_to_its_last_tick_however_it_ends(
    tmp_path: Path, way: str
) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        loop = clock.ticks(range(10), total=3 if way == "total" else None)
        if way == "break":
            loop, kept = iter(()), loop
            for number in kept:
                clock.log(loss=number)
                if number == 2:
                    del kept
                    break
        for number in loop:
            clock.log(loss=number)
            if number == 2 and way == "stop":
                clock.stop()
            elif number == 2 and way != "total":
                break
        clock.log(val_loss=0.5)
    assert metrics(tmp_path / "run") == [{"loss": 0}, {"loss": 1}, {"loss": 2, "val_loss": 0.5}]
    is_over = way != "break with a kept iterator"
    assert fields_of(tmp_path / "run") == [(3, {"metrics": {"val_loss": 0.5}})] * is_over


def test_a_tick_left_by_break_is_on_the_tape_before_later_values(
    tmp_path: Path,
) -> None:
    script = f"""
import os, signal
from metronorm.clock import Clock
with Clock({str(tmp_path / "run")!r}, progress=False) as clock:
    for number in clock.ticks(range(10)):
        clock.log(loss=number)
        if number == 2:
            break
    clock.log(val_loss=0.5)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert metrics(tmp_path / "run") == [{"loss": 0}, {"loss": 1}, {"loss": 2, "val_loss": 0.5}]


def test_after_end_tick_time_belongs_to_the_next_tick_and_values_to_the_last(
    tmp_path: Path,
) -> None:
    time = VirtualTime()
    clock = Clock(tmp_path / "run", progress=False, now=time).open()
    for number in range(2):
        clock.begin_tick()
        time.pass_(10)
        clock.end_tick()
        with clock.phase("evaluate"):
            time.pass_(5)
        clock.log(val_loss=number)
    clock.close()
    first, second = records.ticks(tmp_path / "run")
    assert first["phases"] == {"unattributed": 10}
    assert second["phases"] == {"evaluate": 10, "unattributed": 10}
    assert [tick["metrics"] for tick in (first, second)] == [{"val_loss": 0}, {"val_loss": 1}]
    assert fields_of(tmp_path / "run") == [
        (1, {"metrics": {"val_loss": 0}}),
        (2, {"metrics": {"val_loss": 1}}),
        (2, {"phases": {"evaluate": 5}}),
    ]


def test_phases_in_a_pause_belong_to_the_tick_before(tmp_path: Path) -> None:
    time = VirtualTime()
    clock = Clock(tmp_path / "run", progress=False, now=time).open()
    for _ in range(2):
        clock.begin_tick()
        time.pass_(10)
        clock.end_tick()
        with clock.phase("checkpoint"):
            time.pass_(3)
        clock.pause()
        with clock.phase("evaluate"):
            time.pass_(5)
        time.pass_(1_000)
    clock.close()
    spent = {"checkpoint": 3, "evaluate": 5, "unattributed": 10}
    ticks = records.ticks(tmp_path / "run")
    assert [(tick["phases"], tick["wall_ns"]) for tick in ticks] == [(spent, 18)] * 2
    assert fields_of(tmp_path / "run") == [
        (1, {"phases": {"checkpoint": 3}}),
        (1, {"phases": {"evaluate": 5}}),
        (2, {"phases": {"checkpoint": 3}}),
        (2, {"phases": {"evaluate": 5}}),
    ]


def test_before_the_first_tick_everything_belongs_to_it(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        with clock.phase("evaluate"):
            time.pass_(7)
        clock.log(val_loss=3.0)
        for _ in clock.ticks(range(1)):
            time.pass_(10)
    (tick,) = records.ticks(tmp_path / "run")
    assert tick["metrics"] == {"val_loss": 3.0}
    assert tick["phases"] == {"evaluate": 7, "unattributed": 10}
    assert fields_of(tmp_path / "run") == []


def test_values_without_any_tick_are_an_event(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        with clock.phase("evaluate"):
            time.pass_(7)
        clock.log(val_loss=3.0)
    assert fields_of(tmp_path / "run") == [
        (0, {"metrics": {"val_loss": 3.0}, "phases": {"evaluate": 7}})
    ]


def test_values_of_a_failed_tick_are_an_event(tmp_path: Path) -> None:
    def train(clock: Clock) -> None:
        for number in clock.ticks(range(10)):
            clock.log(loss=math.nan if number == 2 else 1.0, tokens=number)
            if number == 2:
                raise KeyError("diverged")

    with pytest.raises(KeyError), Clock(tmp_path / "run", progress=False) as clock:
        train(clock)
    assert metrics(tmp_path / "run") == [{"loss": 1.0, "tokens": 0}, {"loss": 1.0, "tokens": 1}]
    ((tick, fields),) = fields_of(tmp_path / "run", "unfinished")
    assert tick == 3
    assert fields["metrics"] == {"loss": "nan", "tokens": 2}
    assert {"data", "unattributed"} >= fields["phases"].keys()


def test_values_of_a_tick_that_did_not_end_are_an_event(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "run", progress=False).open()
    clock.begin_tick()
    clock.log(loss=1.0)
    clock.close()
    assert records.ticks(tmp_path / "run") == []
    ((tick, fields),) = fields_of(tmp_path / "run", "unfinished")
    assert (tick, fields["metrics"]) == (1, {"loss": 1.0})


def test_while_an_error_is_handled_the_tick_may_have_failed(tmp_path: Path) -> None:
    def train(clock: Clock) -> None:
        try:
            for number in clock.ticks(range(10)):
                if number == 2:
                    raise KeyError("broken batch")
        finally:
            clock.log(final=1.0)

    with pytest.raises(KeyError), Clock(tmp_path / "run", progress=False) as clock:
        train(clock)
    assert [tick["tick"] for tick in records.ticks(tmp_path / "run")] == [1, 2]
    assert fields_of(tmp_path / "run") == [(3, {"metrics": {"final": 1.0}})]


def test_a_failed_tick_may_be_done_again(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for size in (8, 4):
            try:
                for _ in clock.ticks(range(3), initial=0):
                    clock.log(size=size)
                    if size == 8:
                        raise MemoryError
            except MemoryError:
                pass
    assert [tick["tick"] for tick in records.ticks(tmp_path / "run")] == [1, 2, 3]
    assert metrics(tmp_path / "run") == [{"size": 4}] * 3
    ((tick, fields),) = fields_of(tmp_path / "run", "unfinished")
    assert (tick, fields["metrics"]) == (1, {"size": 8})


def test_values_of_a_device_keep_their_order(tmp_path: Path) -> None:
    time = VirtualTime()
    fake = FakeDevice(time)
    with Clock(tmp_path / "run", progress=False, now=time, device=fake, stall=None) as clock:
        for number in clock.ticks(range(2)):
            fake.work(10)
            clock.log(loss=fake.number(number))
        with clock.phase("evaluate"):
            fake.work(50)
        clock.log(val_loss=fake.number(0.5))
        clock.log(val_loss=0.25)
        assert fields_of(tmp_path / "run") == [], "nothing may wait for the device"
        fake.may_wait = True
    assert metrics(tmp_path / "run") == [{"loss": 0}, {"loss": 1, "val_loss": 0.25}]
    assert fields_of(tmp_path / "run") == [
        (2, {"metrics": {"val_loss": 0.5}, "phases": {"evaluate": 50}}),
        (2, {"metrics": {"val_loss": 0.25}}),
    ]


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(1)))
        clock.log(a=math.nan, b=-math.inf, c=2**63)
    assert fields_of(tmp_path / "run") == [
        (1, {"metrics": {"a": "nan", "b": "-inf", "c": 2.0**63}})
    ]
    assert {"a", "b"} == {
        fields["metric"] for _, fields in fields_of(tmp_path / "run", "not finite")
    }


def test_phases_between_loops_are_measured_whatever_the_budget(tmp_path: Path) -> None:
    time = VirtualTime()
    clock = Clock(tmp_path / "run", progress=False, now=time, budget=1e-9)
    with clock:
        clock._recording.sampling.cost_of_phase_ns = (
            1_000  # where time is virtual, a phase costs nothing
        )
        for _ in range(10):
            for _ in clock.ticks(range(64)):
                with clock.phase("forward"):
                    time.pass_(1)
            with clock.phase("evaluate"):
                time.pass_(100)
        assert clock._recording.sampling.budget.every > 1
    evaluated = [fields["phases"]["evaluate"] for _, fields in fields_of(tmp_path / "run")]
    assert evaluated == [100] * 10


def test_other_threads_see_the_newest_record(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        assert clock.totals == {}
        for _ in clock.ticks(range(2)):
            clock.log(loss=1.0)
        with clock.phase("evaluate"):
            time.pass_(7)
        clock.log(val_loss=2.0)
        assert clock.latest is not None
        assert clock.latest.metrics == {"loss": 1.0, "val_loss": 2.0}
        assert clock.totals["evaluate"] == 7


def test_a_clock_that_is_not_open_records_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be entered before it records"):
        Clock(tmp_path / "run").log(loss=1.0)
