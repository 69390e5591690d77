"""Phases that a thread other than the loop's opens."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from metronorm.clock import Clock, other_threads
from metronorm.clock.device_ledger import DeviceLedger
from metronorm.clock.phase_accounts import PlainAccount, PlainAccounts
from metronorm.clock.phase_timer import Ledger

from . import records
from .fake_device import FakeDevice
from .virtual import VirtualTime


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, name="loader")
    thread.start()
    thread.join()


@pytest.mark.parametrize("kind", ["host", "device"])
def test_phases_of_other_threads_do_not_change_the_loops(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    time = VirtualTime()
    device = FakeDevice(time) if kind == "device" else None
    with Clock(tmp_path / "run", progress=False, now=time, device=device, stall=None) as clock:

        def load() -> None:
            for name in ("prefetch", "forward"):
                with clock.phase(name):
                    time.pass_(20)

        for _ in clock.ticks(range(2)):
            with clock.phase("forward"):
                time.pass_(10)
                in_thread(load)
                time.pass_(10)
        if device is not None:
            device.finish()
    forward = {"forward": 60, "unattributed": 0}
    found = [tick["phases"] | {"data": 0} for tick in records.ticks(tmp_path / "run")]
    assert found == [forward | {"data": 0}] * 2
    left_out = [event for event in records.events(tmp_path / "run") if "phase" in event["fields"]]
    assert [(event["event"], event["fields"]) for event in left_out] == [
        ("phase left out", {"phase": name, "thread": "loader"}) for name in ("prefetch", "forward")
    ]
    assert caplog.text.count("of thread loader is not measured") == 2


def test_a_phase_of_the_loop_spans_phases_of_other_threads(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for _ in clock.ticks(range(1)):
            with clock.phase("forward"):
                other = clock.phase("loading")
                in_thread(other.__enter__)
                time.pass_(56)
                in_thread(partial(other.__exit__, None, None, None))
                time.pass_(44)
    assert records.ticks(tmp_path / "run")[0]["phases"]["forward"] == 100


def test_the_loop_may_run_in_any_thread(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:

        def train() -> None:
            for _ in clock.ticks(range(2)):
                with clock.phase("forward"):
                    time.pass_(10)
            with clock.phase("evaluate"):
                time.pass_(5)

        for _ in range(2):
            in_thread(train)
    assert [tick["phases"].get("forward") for tick in records.ticks(tmp_path / "run")] == [10] * 4
    between = [e["fields"] for e in records.events(tmp_path / "run") if e["event"] == "between"]
    assert between == [{"phases": {"evaluate": 5}}] * 2


class Twice(torch.autograd.Function):
    """A phase of the user, in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, phase: AbstractContextManager[None]) -> torch.Tensor:
        ctx.phase = phase
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        with ctx.phase:
            return gradients[0] * 2, None


def test_a_backward_pass_in_another_thread_that_python_started_does_not_count(
    tmp_path: Path,
) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        x = torch.ones(2, requires_grad=True)
        for _ in clock.ticks(range(1)):
            y = Twice.apply(x, clock.phase("twice"))  # type: ignore[no-untyped-call]
            in_thread(y.sum().backward)
            y = Twice.apply(x, clock.phase("own"))  # type: ignore[no-untyped-call]
            y.sum().backward()
    phases = records.ticks(tmp_path / "run")[0]["phases"]
    assert "twice" not in phases
    assert phases["own"] > 0


@pytest.mark.parametrize("in_backward", [True, False])
def test_a_thread_of_autograds_works_for_the_loop(
    in_backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator the backward pass runs in a thread that Python did not start."""
    monkeypatch.setattr(other_threads, "_started_by_python", set)
    found = []

    class Ask(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            found.append(other_threads.works_for_the_loop())
            return gradients[0]

    x = torch.ones(1, requires_grad=True)
    if in_backward:
        Ask.apply(x).backward()  # type: ignore[no-untyped-call]
    else:
        found.append(other_threads.works_for_the_loop())
    assert found == [in_backward]


def plain_ledger(time: VirtualTime) -> tuple[Any, Any]:
    accounts = PlainAccounts(time, "rest", lambda name: False)
    return accounts, PlainAccount(accounts, "a")


def ledger(time: VirtualTime) -> tuple[Any, Any]:
    made = Ledger(time, lambda name: False)
    return made, made.phases["a"]


def device_ledger(time: VirtualTime) -> tuple[Any, Any]:
    made = DeviceLedger(time, FakeDevice(time), lambda name: False)
    return made, made.phases["a"]


@pytest.mark.parametrize("make", [ledger, plain_ledger, device_ledger])
def test_hooks_that_the_loop_waits_for_do_not_ask(make: Any) -> None:
    made, phase = make(VirtualTime())
    made.begin()
    in_thread(phase.__enter__)
    assert made.entered == 0
    in_thread(phase.enter)
    assert made.entered == 1
    in_thread(lambda: phase.__exit__(None, None, None))
    in_thread(phase.leave)


def test_an_error_while_asking_leaves_no_phase_open() -> None:
    def fail(name: str) -> bool:
        raise KeyError(name)

    made = Ledger(VirtualTime(), fail)
    made.begin()
    found = []

    def enter() -> None:
        with pytest.raises(KeyError, match="a"):
            made.phases["a"].__enter__()
        found.append(made.entered)

    in_thread(enter)
    assert found == [0]
