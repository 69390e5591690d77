import threading
from pathlib import Path

import numpy as np
import pytest

from metronorm.clock import Clock
from metronorm.clock.overhead_budget import RAREST, WINDOW, Budget
from metronorm.runs import open_run

from . import records
from .fake_device import FakeDevice
from .virtual import VirtualTime

READING = 10  # what it costs to read the time
PHASE = 2 * READING


class CostlyTime(VirtualTime):
    """Each reading takes time, so the cost of the clock is known; other threads read at no cost."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def __call__(self) -> int:
        if threading.get_ident() == self.thread:
            self.ns += READING
        return self.ns


def costs(run: Path) -> list[int]:
    return [row["clock_ns"] for row in open_run(run).ticks().rows()]


def sampled(run: Path) -> list[tuple[int, int]]:
    """The tick after which phases are measured in every N-th tick, and N."""
    return [
        (event["tick"], event["fields"]["every"])
        for event in records.events(run)
        if event["event"] == "sampling"
    ]


def train(clock: Clock, time: VirtualTime, ticks: int, tick_ns: int) -> None:
    for _ in clock.ticks(range(ticks)):
        with clock.phase("forward"):
            time.pass_(tick_ns)
        with clock.phase("update"):
            pass
        clock.log(loss=1.0, tokens=64)


def test_the_cost_of_a_tick_is_on_its_record(tmp_path: Path) -> None:
    time = CostlyTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        train(clock, time, 3, 10**9)
        for _ in clock.ticks(range(2)):
            clock.log(loss=np.float32(1.0))
    data, forward, update, reading = PHASE, PHASE, PHASE, READING
    # taking the iterator of the loader is in the first `data`; the moment a record takes, in the
    # next tick; the `data` that found the loader empty, in the next loop
    assert costs(tmp_path / "run") == [
        2 * data + forward + update,
        data + forward + update + reading,
        data + forward + update + reading,
        3 * data + reading + reading,
        data + reading + reading,
    ]


def test_beyond_the_budget_phases_are_measured_in_fewer_ticks(tmp_path: Path) -> None:
    time = CostlyTime()
    run = tmp_path / "run"
    with Clock(run, progress=False, now=time, budget=0.001) as clock:
        train(clock, time, 9 * WINDOW, 10_000)
        train(clock, time, 8 * WINDOW, 10**9)
    changes = sampled(run)
    # the first window only begins to count
    up = [(WINDOW * window, 2 ** (window - 1)) for window in range(2, 8)]
    down = [(WINDOW * (9 + window), RAREST >> window) for window in range(1, 7)]
    assert changes == up + down
    ticks = records.ticks(run)
    assert len(ticks) == 17 * WINDOW
    for tick in ticks:
        if tick["phases"]:
            assert set(tick["phases"]) == {"data", "forward", "update", "unattributed"}
            assert sum(tick["phases"].values()) == tick["wall_ns"]
        assert tick["metrics"] == {"loss": 1.0, "tokens": 64}
        assert tick["wall_ns"] > 10_000
    for begin, every in [(0, 1), *changes]:
        measured = [tick for tick in ticks[begin : begin + WINDOW] if tick["phases"]]
        assert abs(len(measured) - WINDOW / every) <= 1


def test_periodic_events_are_sampled_like_others(tmp_path: Path) -> None:
    """An evaluation every 100 ticks must be in some measured ticks, and not in all."""
    time = CostlyTime()
    with Clock(tmp_path / "run", progress=False, now=time, budget=0.0, stall=None) as clock:
        train(clock, time, 200 * WINDOW, 1_000)
    ticks = [tick for tick in records.ticks(tmp_path / "run") if tick["tick"] > 7 * WINDOW]
    measured = [tick["tick"] for tick in ticks if tick["phases"]]
    assert abs(len(measured) - len(ticks) / RAREST) <= 2
    assert max(np.diff(measured)) <= 3 * RAREST
    for period in (2, 5, 8, 10, 50, 64, 100):
        hits = sum(tick % period == 0 for tick in measured)
        assert 0.5 < hits / len(measured) * period < 2, period


@pytest.mark.parametrize(("budget", "rarest"), [(1.0, 1), (0.0, RAREST)])
def test_a_budget_may_be_everything_or_nothing(tmp_path: Path, budget: float, rarest: int) -> None:
    time = CostlyTime()
    with Clock(tmp_path / "run", progress=False, now=time, budget=budget) as clock:
        train(clock, time, 8 * WINDOW, 1_000)
    assert [1, *(every for _, every in sampled(tmp_path / "run"))][-1] == rarest
    measured = [tick["tick"] for tick in records.ticks(tmp_path / "run") if tick["phases"]]
    if rarest == 1:
        assert len(measured) == 8 * WINDOW
    else:
        assert sum(tick > 7 * WINDOW for tick in measured) <= 2


def test_ticks_that_are_driven_by_callbacks_are_sampled_too(tmp_path: Path) -> None:
    time = CostlyTime()
    with Clock(tmp_path / "run", progress=False, now=time, budget=0.0) as clock:
        for _ in range(3 * WINDOW):
            clock.begin_tick()
            with clock.phase("forward"):
                time.pass_(1_000)
            clock.end_tick()
    assert sampled(tmp_path / "run") == [(2 * WINDOW, 2), (3 * WINDOW, 4)]
    ticks = records.ticks(tmp_path / "run")
    measured = [bool(tick["phases"]) for tick in ticks]
    assert all(measured[: 2 * WINDOW])
    assert abs(sum(measured[2 * WINDOW :]) - WINDOW / 2) <= 1


def test_phases_in_device_time_are_sampled_too(tmp_path: Path) -> None:
    time = CostlyTime()
    device = FakeDevice(time)
    run = tmp_path / "run"
    with Clock(run, progress=False, now=time, budget=0.0, device=device) as clock:
        for number in clock.ticks(range(3 * WINDOW)):
            with clock.phase("forward"):
                device.work(5_000)
            clock.log(number=number, loss=device.number(number))
            device.finish()
        device.may_wait = True
    ticks = records.ticks(run)
    assert 0 < sum(bool(tick["phases"]) for tick in ticks[2 * WINDOW :]) < WINDOW
    for tick in ticks:
        if tick["phases"]:  # all phases or none: some of them would look like all
            assert tick["phases"]["forward"] >= 5_000
            assert sum(tick["phases"].values()) == tick["wall_ns"]
        assert tick["metrics"]["loss"] == tick["metrics"]["number"] == tick["tick"] - 1


def test_costs_add_up_over_the_change_to_device_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = CostlyTime()
    device = FakeDevice(time)
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        train(clock, time, 3, 1_000)
        monkeypatch.setattr("metronorm.clock.phase_sampling.find_device", lambda: device)
        train(clock, time, 3, 1_000)
        device.may_wait = True
    found = costs(tmp_path / "run")
    assert found[4:] == [found[1] + READING] * 2, "of the moment that is marked"
    assert found[3] == found[0] + PHASE + READING, "and what the first loop's end cost"


def test_a_budget_reviews_what_a_window_cost() -> None:
    budget = Budget(0.01)
    assert not budget.review(10**6, 0), "what came before the first window is nobody's"
    assert not budget.review(10, 1_000), "all of it, and no more"
    assert budget.review(11, 2_000)
    assert budget.every == 2
    assert not budget.review(3, 3_000), "between, nothing changes"
    assert budget.review(2, 4_000)
    assert budget.every == 1
    assert not budget.review(0, 5_000)
    assert budget.every == 1


def test_metrics_do_not_count_to_the_budget(tmp_path: Path) -> None:
    """The cost of a tick without phases is that of its metrics; sampling would not reduce it."""
    time = CostlyTime()
    with Clock(tmp_path / "run", progress=False, now=time, budget=0.1) as clock:
        for _ in clock.ticks(range(4 * WINDOW)):
            clock.log(**{f"m{number}": np.float32(number) for number in range(50)})
            time.pass_(30 * READING)
    assert sum(costs(tmp_path / "run")) > 0.1 * sum(
        tick["wall_ns"] for tick in records.ticks(tmp_path / "run")
    )
    assert sampled(tmp_path / "run") == []
