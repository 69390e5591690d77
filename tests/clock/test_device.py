import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.clock import Clock, pending_records
from metronorm.clock.device import TorchDevice, fetcher, find_device
from metronorm.errors import ConfigError
from metronorm.runs import open_run

from . import records
from .fake_device import FakeDevice, FakeJax, FakeTorch, Place, Tensor
from .virtual import VirtualTime

Fake = FakeDevice | FakeJax | FakeTorch


@pytest.fixture(params=["device", "torch with phases", "torch", "jax"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Phases are in device time for the first two, in host time for the others."""
    pending_records._warn_once.cache_clear()
    if request.param == "device":
        return FakeDevice(VirtualTime())
    if request.param == "jax":
        return FakeJax()
    fake_torch = FakeTorch()
    fake_torch.is_initialized = request.param == "torch with phases"
    monkeypatch.setitem(sys.modules, "torch", fake_torch)  # type: ignore[arg-type]
    return fake_torch


@pytest.fixture(params=["torch", "jax"])
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A framework that only provides values; phases are in host time."""
    pending_records._warn_once.cache_clear()
    if request.param == "jax":
        return FakeJax()
    fake_torch = FakeTorch()
    fake_torch.is_initialized = False
    monkeypatch.setitem(sys.modules, "torch", fake_torch)  # type: ignore[arg-type]
    return fake_torch


def new_clock(run: Path, fake: Fake) -> Clock:
    device = fake if isinstance(fake, FakeDevice) else None
    return Clock(run, progress=False, device=device, stall=None)


def on_record(run: Path) -> list[int]:
    return [tick["tick"] for tick in records.ticks(run)]


def test_values_land_under_their_own_tick(tmp_path: Path, fake: Fake) -> None:
    run = tmp_path / "run"
    with new_clock(run, fake) as clock:
        for number in clock.ticks(range(6)):
            clock.log(first=number, loss=fake.number(number / 2), last=-number)
            clock.log(norm=fake.number(number * 3))
            if number == 2:
                assert on_record(run) == []
                fake.finish()
            if number == 3:
                assert on_record(run)[:2] == [1, 2]
                assert clock.latest is not None
                assert clock.latest.metrics["loss"] == (clock.latest.tick - 1) / 2
        fake.may_wait = True  # while the clock closes
    assert open_run(run).ticks().metrics == ["first", "loss", "last", "norm"]
    assert [tick["metrics"] for tick in records.ticks(run)] == [
        {"first": number, "loss": number / 2, "last": -number, "norm": number * 3}
        for number in range(6)
    ]
    assert on_record(run) == [1, 2, 3, 4, 5, 6]


def test_the_last_value_wins_on_any_device(tmp_path: Path, fake: Fake) -> None:
    with new_clock(tmp_path / "run", fake) as clock:
        for number in clock.ticks(range(4)):
            loss = [1.0, fake.number(2.0), 3.0, fake.number(4.0), fake.number(5.0), 6.0]
            for value in (loss[:2], loss[1:3], loss[3:5], [*loss, fake.number(7.0)])[number]:
                clock.log(loss=value)
            clock.log(other=0.0)
        fake.may_wait = True
    ticks = records.ticks(tmp_path / "run")
    assert [tick["metrics"]["loss"] for tick in ticks] == [2.0, 3.0, 5.0, 7.0]
    assert all(tick["metrics"]["other"] == 0.0 for tick in ticks)


def test_values_that_are_not_one_number_are_refused_at_once(tmp_path: Path, fake: Fake) -> None:
    with new_clock(tmp_path / "run", fake) as clock:
        for _ in clock.ticks(range(1)):
            for value in (fake.number(0, shape=(2,)), fake.number(0, shape=(1, 0)), "text"):
                with pytest.raises(ConfigError, match="a metric must be one number"):
                    clock.log(good=fake.number(1.0), loss=value)
            clock.log(norm=fake.number(2.0, shape=(1, 1)))
        fake.may_wait = True
    # of a call that is refused nothing is recorded
    assert records.ticks(tmp_path / "run")[0]["metrics"] == {"norm": 2.0}


def test_an_error_ends_the_run_with_its_finished_ticks(tmp_path: Path, fake: Fake) -> None:
    def train(clock: Clock) -> None:
        for number in clock.ticks(range(10)):
            clock.log(loss=fake.number(number))
            if number == 3:
                fake.finish()
                raise KeyError("broken batch")

    with pytest.raises(KeyError), new_clock(tmp_path / "run", fake) as clock:
        train(clock)
    ticks = records.ticks(tmp_path / "run")
    assert [(tick["tick"], tick["metrics"]["loss"]) for tick in ticks] == [(1, 0), (2, 1), (3, 2)]
    assert records.events(tmp_path / "run")[-1]["fields"]["error"] == "KeyError"


@pytest.mark.parametrize("breaks", [False, True])
def test_an_error_does_not_wait_for_a_device_that_hangs_or_is_broken(
    tmp_path: Path, fake: Fake, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metronorm.clock.clock.PATIENCE_SECONDS", 0.0)

    def train(clock: Clock) -> None:
        for number in clock.ticks(range(3)):
            clock.log(loss=fake.number(number), tokens=64)
        if breaks:
            fake.break_down()
        raise RuntimeError("from training")

    with (
        pytest.raises(RuntimeError, match="from training"),
        new_clock(tmp_path / "run", fake) as clock,
    ):
        train(clock)
    ticks = records.ticks(tmp_path / "run")
    assert [(tick["tick"], tick["metrics"]) for tick in ticks] == [
        (tick, {"tokens": 64}) for tick in (1, 2, 3)
    ]
    end = records.events(tmp_path / "run")[-1]
    assert (end["event"], end["fields"]["message"]) == ("end", "from training")


def test_a_device_that_breaks_does_not_end_training_through_the_clock(
    tmp_path: Path, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    with new_clock(tmp_path / "run", fake) as clock:
        for number in clock.ticks(range(20)):
            if number < 3:
                clock.log(loss=fake.number(number))
            if number == 2:
                fake.break_down()
            clock.log(tokens=64)
    assert on_record(tmp_path / "run") == list(range(1, 21))
    found = [line.getMessage() for line in caplog.records if "'loss'" in line.getMessage()]
    assert len(found) == 1
    assert "device-side assert" in found[0]


def test_a_tick_on_the_host_does_not_wait_for_those_before(tmp_path: Path, beside: Fake) -> None:
    run = tmp_path / "run"
    with new_clock(run, beside) as clock:
        for number in clock.ticks(range(8)):
            if number == 1:
                clock.log(loss=beside.number(0.5))
            else:
                clock.log(loss=1.0)
            # a kill here would leave these: what is read lies in memory that outlives the process
            assert on_record(run) == [tick for tick in range(1, number + 1) if tick != 2]
            assert clock.latest is None or clock.latest.tick == max(on_record(run))
        beside.finish()
        list(clock.ticks(range(1)))
        assert on_record(run) == list(range(1, 10))
        assert clock.latest is not None
        assert clock.latest.tick == 9, "the newest, though the second came late"
    assert records.ticks(run)[1]["metrics"] == {"loss": 0.5}


def test_a_device_that_never_answers_does_not_fill_memory(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_records, "MOST", 8)
    with new_clock(tmp_path / "run", fake) as clock:
        for number in clock.ticks(range(20)):
            clock.log(loss=fake.number(number), tokens=64)
            assert len(clock._recording._pending) <= 8
        assert on_record(tmp_path / "run") == list(range(1, 13))
        fake.may_wait = True
    ticks = records.ticks(tmp_path / "run")
    assert [tick["tick"] for tick in ticks] == list(range(1, 21))
    assert all(tick["metrics"] == {"tokens": 64} for tick in ticks[:12])
    assert [tick["metrics"]["loss"] for tick in ticks[12:]] == list(range(12, 20))


def test_not_finite_values_of_a_device_are_recorded_and_reported(
    tmp_path: Path, fake: Fake
) -> None:
    with new_clock(tmp_path / "run", fake) as clock:
        for _ in clock.ticks(range(2)):
            clock.log(loss=fake.number(float("inf")))
        fake.may_wait = True
    assert [tick["metrics"]["loss"] for tick in records.ticks(tmp_path / "run")] == [np.inf] * 2
    found = [e for e in records.events(tmp_path / "run") if e["event"] == "not finite"]
    assert [event["fields"] for event in found] == [{"metric": "loss", "value": "inf"}]


# --- JAX ------------------------------------------------------------------------------------------


def test_an_array_that_is_donated_before_it_arrives_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pending_records._warn_once.cache_clear()
    jax = FakeJax()
    with caplog.at_level(logging.WARNING), new_clock(tmp_path / "run", jax) as clock:
        for number in clock.ticks(range(5)):
            step = jax.number(number)
            clock.log(step=step, loss=jax.number(number))
            step.delete()
            jax.finish()
    assert [tick["metrics"] for tick in records.ticks(tmp_path / "run")] == [
        {"loss": number} for number in range(5)
    ]
    assert len(caplog.records) == 1
    assert "'step' did not arrive" in caplog.text
    assert "Array has been deleted" in caplog.text


def test_an_array_that_is_ready_is_taken_at_once() -> None:
    jax = FakeJax()
    array = jax.number(1.0)
    assert fetcher(array, None) is not None
    jax.finish()
    assert fetcher(array, None) is None


# --- torch ----------------------------------------------------------------------------------------


def test_tensors_on_the_host_are_taken_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    weight = torch.tensor(0.5, requires_grad=True)
    with Clock(run, progress=False) as clock:
        for number in clock.ticks(range(2)):
            clock.log(
                loss=weight * 3,
                half=torch.tensor([[0.25]], dtype=torch.bfloat16),
                count=torch.tensor(2**40),
                flag=torch.tensor(True),
            )
            assert on_record(run) == list(range(1, number + 1))
            for value in (
                torch.zeros(2),
                torch.zeros(0),
                torch.tensor(1j),
                torch.empty((), device="meta"),
            ):
                with pytest.raises(ConfigError, match="got bad = a Tensor of shape"):
                    clock.log(bad=value)
    assert records.ticks(run)[0]["metrics"] == {
        "loss": 1.5,
        "half": 0.25,
        "count": 2**40,
        "flag": 1,
    }


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    made = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", made)  # type: ignore[arg-type]
    return made


def test_the_accelerator_that_is_used_is_found(fake_torch: FakeTorch) -> None:
    fake_torch.is_initialized = False
    assert find_device() is None
    fake_torch.is_initialized = True
    fake_torch.current = 2
    found = find_device()
    assert isinstance(found, TorchDevice)
    moment: Any = found.mark()
    assert moment.event.place == Place("cuda", 2)
    assert find_device() is found, "with its pool of events"


def test_no_accelerator_is_found_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device() is None  # this torch has none
    monkeypatch.delitem(sys.modules, "torch")
    assert find_device() is None


def test_a_value_of_another_device_than_the_current_one(fake_torch: FakeTorch) -> None:
    """The loss of a large model is often on the last of several devices."""
    for _ in range(3):
        for index in (1, 0, 2):
            value = fake_torch.number(index, index=index)
            fetch = fetcher(value, None)
            assert fetch is not None
            pending: Any = fetch(value)
            assert pending._moment.event.place == Place("cuda", index)
            assert not pending.ready()
            fake_torch.finish()
            assert pending.ready()
            assert pending.get() == index
    assert fake_torch.events_made == 3, "they come from pools"


def test_a_value_is_copied_before_it_is_changed_in_place(fake_torch: FakeTorch) -> None:
    total = fake_torch.number(1.0)
    fetch = fetcher(total, None)
    assert fetch is not None
    pending = fetch(total)
    total.value = 2.0
    fake_torch.finish()
    assert pending.get() == 1.0


def test_a_distributed_value_is_fetched_whole(fake_torch: FakeTorch) -> None:
    """The norm of gradients that `fully_shard` distributes is a DTensor."""

    class Part(Tensor):
        def full_tensor(self) -> Tensor:
            return Tensor(self.work, 5.0, self.device)

    part = Part(fake_torch, 3.0, Place("cuda", 0))
    fetch = fetcher(part, None)
    assert fetch is not None
    pending = fetch(part)
    fake_torch.finish()
    assert pending.get() == 5.0


def test_values_of_devices_without_events_are_waited_for(fake_torch: FakeTorch) -> None:
    assert fetcher(Tensor(fake_torch, 1.0, Place("xla", 0)), None) is None
    assert fetcher(Tensor(fake_torch, 1.0, Place("meta", 0)), None) is None
    assert fetcher(np.float32(1.0), None) is None
    assert fetcher(1.0, None) is None
