from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronorm.clock import Clock, phase_sampling
from metronorm.clock.device import TorchDevice
from metronorm.clock.device_ledger import DeviceLedger, DevicePhases
from metronorm.clock.phase_timer import Ledger
from metronorm.store.schema import UNATTRIBUTED

from . import records
from .fake_device import FakeDevice, FakeTorch, Place
from .virtual import VirtualTime


def landed(device: FakeDevice, closed: tuple[int, Any]) -> tuple[int, dict[str, int]]:
    """The result of `close`, when the device has reached the end of the tick."""
    _, phases = closed
    assert isinstance(phases, DevicePhases)
    assert not phases.ready()
    device.finish()
    assert phases.ready()
    return phases.get()


def new_ledger() -> tuple[VirtualTime, FakeDevice, DeviceLedger]:
    time = VirtualTime()
    device = FakeDevice(time)
    return time, device, DeviceLedger(time, device)


def test_a_phase_is_what_the_device_did_in_it() -> None:
    """The host only adds work to the stream; the device does it long after."""
    time, device, ledger = new_ledger()
    ledger.begin()
    with ledger.phases["forward"]:
        time.pass_(1)
        device.work(100)
        with ledger.phases["attention"]:
            device.work(50)
        device.work(7)
    device.work(30)
    time.pass_(2)
    closed = ledger.close()
    assert closed[0] == 3, "of the host, until the device's is known"
    assert landed(device, closed) == (
        188,
        {"forward": 1 + 100 + 7, "attention": 50, UNATTRIBUTED: 30},
    )


def test_a_wait_for_data_during_device_work_is_charged_no_time() -> None:
    time, device, ledger = new_ledger()
    ledger.begin()
    with ledger.phases["forward"]:
        device.work(1_000)
    with ledger.phases["data"]:
        time.pass_(900)
    assert landed(device, ledger.close()) == (1_000, {"forward": 1_000, "data": 0, UNATTRIBUTED: 0})
    with ledger.phases["data"]:
        time.pass_(500)  # 400 of them with nothing to do
    assert landed(device, ledger.close()) == (400, {"data": 400, UNATTRIBUTED: 0})


def test_time_between_loops_belongs_to_no_tick_but_its_phases_count() -> None:
    time, device, ledger = new_ledger()
    time.pass_(1_000)
    with ledger.phases["evaluate"]:
        device.work(7)
    time.pass_(1_000)
    ledger.begin()
    device.work(2)
    assert landed(device, ledger.close()) == (9, {"evaluate": 7, UNATTRIBUTED: 2})
    device.work(4)
    ledger.pause()
    time.pass_(1_000)
    assert landed(device, ledger.close()) == (4, {UNATTRIBUTED: 4})


def test_a_phase_open_across_the_end_of_a_tick_is_split_there() -> None:
    _, device, ledger = new_ledger()
    with ledger.phases["epoch"]:
        ledger.begin()
        device.work(10)
        assert landed(device, ledger.close()) == (10, {"epoch": 10, UNATTRIBUTED: 0})
        device.work(20)
    device.work(1)
    assert landed(device, ledger.close()) == (21, {"epoch": 20, UNATTRIBUTED: 1})


def test_any_number_of_ticks_may_become_ready_at_once() -> None:
    """A closed tick does not change, however far the host is ahead."""
    _, device, ledger = new_ledger()
    ledger.begin()
    closed = []
    for tick in range(50):
        with ledger.phases["forward"]:
            device.work(tick)
        closed.append(ledger.close()[1])
    assert not any(phases.ready() for phases in closed if isinstance(phases, DevicePhases))
    device.finish()
    for tick, phases in enumerate(closed):
        assert isinstance(phases, DevicePhases)
        assert phases.get() == (tick, {"forward": tick, UNATTRIBUTED: 0})


@pytest.mark.parametrize("in_device_time", [False, True])
def test_a_generator_may_be_left_inside_a_phase(tmp_path: Path, in_device_time: bool) -> None:
    """Its phase ends with the phase around it, and does not end again later."""
    time = VirtualTime()
    device = FakeDevice(time) if in_device_time else None

    def loader(clock: Clock) -> Iterator[int]:
        for number in range(10):
            time.pass_(100)
            with clock.phase("read"):
                time.pass_(10)
                yield number

    with Clock(tmp_path / "run", progress=False, device=device, now=time, stall=None) as clock:
        for _ in range(2):
            for number in clock.ticks(loader(clock)):
                with clock.phase("forward"):
                    time.pass_(1_000)
                if number == 3:
                    break
        if device is not None:
            device.may_wait = True
    ticks = records.ticks(tmp_path / "run")
    assert len(ticks) == 8
    for tick in ticks:
        assert tick["phases"] == {"data": 100, "read": 10, "forward": 1_000, "unattributed": 0}
        assert tick["wall_ns"] == 1_110


# --- random programs ------------------------------------------------------------------------------

# what a training may do: with a phase, the host, the device, or the ledger
Step = tuple[str, Any]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from("abc")),
        st.tuples(st.just("leave"), st.sampled_from("abc")),
        st.tuples(st.just("host"), st.integers(0, 10**9)),
        st.tuples(st.just("device"), st.integers(0, 10**9)),
        st.tuples(st.sampled_from(["close", "pause", "begin", "finish"]), st.none()),
    ),
    max_size=60,
)


def run(
    program: list[Step], ledger: Ledger, time: VirtualTime, work: Callable[[int], None]
) -> list[tuple[int, Any]]:
    """The results of `close`; phases may be left in any order, and more often than entered."""
    closed = []
    ledger.begin()
    for what, value in [*program, ("close", None)]:
        if what == "enter":
            ledger.phases[value].__enter__()
        elif what == "leave":
            ledger.phases[value].__exit__(None, None, None)
        elif what == "host":
            time.pass_(value)
        elif what == "device":
            work(value)
        elif what == "close":
            closed.append(ledger.close())
        elif what == "pause":
            ledger.pause()
        elif what == "begin":
            ledger.begin()
    return closed


@given(steps)
def test_phases_and_the_rest_are_the_wall(program: list[Step]) -> None:
    time, device, ledger = new_ledger()
    closed = run(program, ledger, time, device.work)
    device.finish()
    for _, phases in closed:
        wall_ns, spent = phases.get()
        assert sum(spent.values()) == wall_ns
        assert all(ns >= 0 for ns in spent.values())


@given(steps)
def test_all_device_time_is_charged(program: list[Step]) -> None:
    program = [step for step in program if step[0] != "pause"]
    time, device, ledger = new_ledger()
    begun = device.now()
    closed = run(program, ledger, time, device.work)
    device.finish()
    assert sum(phases.get()[0] for _, phases in closed) == device.now() - begun


@given(steps)
def test_device_and_host_ledgers_agree_if_their_times_do(program: list[Step]) -> None:
    """A device without work; the host waits for everything."""
    time, device, ledger = new_ledger()
    by_device = run(program, ledger, time, time.pass_)
    device.finish()
    by_host = run(program, Ledger(host := VirtualTime()), host, host.pass_)
    for (_, phases), (wall_ns, spent) in zip(by_device, by_host, strict=True):
        found_ns, found = phases.get()
        assert found_ns == wall_ns
        assert {k: v for k, v in found.items() if v} == {k: v for k, v in spent.items() if v}


# --- events ---------------------------------------------------------------------------------------


def test_events_are_used_again() -> None:
    torch = FakeTorch()
    ledger = DeviceLedger(VirtualTime(), TorchDevice(torch, Place("cuda", 0)))
    ledger.begin()
    waiting: list[DevicePhases] = []
    for tick in range(1_000):
        for name in ("data", "forward", "backward", "update"):
            with ledger.phases[name]:
                pass
        waiting.append(ledger.close()[1])
        if tick % 5 == 4:
            torch.finish()
            while waiting:
                wall_ns, spent = waiting.pop(0).get()
                assert sum(spent.values()) == wall_ns == 9
    assert torch.events_made <= 6 * 9


def test_streams_that_run_beside_each_other() -> None:
    """The device may reach the last moment before one that was marked on another stream."""
    torch = FakeTorch()
    device = TorchDevice(torch, Place("cuda", 0))
    ledger = DeviceLedger(VirtualTime(), device)
    ledger.begin()
    with ledger.phases["forward"]:
        pass
    _, phases = ledger.close()
    assert isinstance(phases, DevicePhases)
    torch.done, phases._marks[1][0].event.serial = torch.given, torch.given + 1
    assert not phases.ready()
    torch.done += 1
    assert phases.ready()


# --- in a clock -----------------------------------------------------------------------------------


def test_a_run_in_device_time(tmp_path: Path) -> None:
    time = VirtualTime()
    device = FakeDevice(time)
    ends = []
    with Clock(tmp_path / "run", progress=False, device=device, now=time, stall=None) as clock:
        for number in clock.ticks(range(10)):
            with clock.phase("forward"):
                device.work(1_000 + number)
            with clock.phase("update"):
                device.work(10)
            time.pass_(100)
            clock.log(number=number)
            if number % 3 == 2:
                device.finish()
            ends.append(device.now())
        device.may_wait = True
    ticks = records.ticks(tmp_path / "run")
    for number, tick in enumerate(ticks):
        assert tick["metrics"] == {"number": number}
        assert sum(tick["phases"].values()) == tick["wall_ns"]
        assert tick["phases"]["forward"] == 1_000 + number
        assert tick["phases"]["update"] == 10
    assert [tick["wall_ns"] for tick in ticks[1:]] == [
        end - begin for begin, end in pairwise(ends)
    ], "ticks follow each other without a gap"


def test_the_time_becomes_that_of_the_device_between_two_loops(
    tmp_path: Path, monkeypatch: Any
) -> None:
    time = VirtualTime()
    device = FakeDevice(time)
    found: list[FakeDevice] = []
    monkeypatch.setattr(phase_sampling, "find_device", lambda: found[0] if found else None)
    with Clock(tmp_path / "run", progress=False, now=time, stall=None) as clock:
        for _ in clock.ticks(range(3)):
            with clock.phase("forward"):
                device.work(1_000)
                time.pass_(5)
        time.pass_(10_000)
        found.append(device)
        for _ in clock.ticks(range(3)):
            with clock.phase("forward"):
                device.work(1_000)
                time.pass_(5)
        device.may_wait = True
    ticks = records.ticks(tmp_path / "run")
    assert [tick["phases"]["forward"] for tick in ticks] == [5] * 3 + [1_000] * 3
    assert all(sum(tick["phases"].values()) == tick["wall_ns"] for tick in ticks)
