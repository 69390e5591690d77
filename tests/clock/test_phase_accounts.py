"""Mistakes that C++ could make: references, errors of `now`, wrong arguments."""

import contextlib
import copy
import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from metronorm.clock._ticking import Account, Accounts, all_plain
from metronorm.clock.phase_timer import Ledger
from metronorm.store.schema import LARGEST_INTEGER, UNATTRIBUTED

from .virtual import VirtualTime


def test_a_phase_inside_itself_is_charged_once() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    ledger.begin()
    with ledger.phases["layer"]:
        time.pass_(1)
        with ledger.phases["layer"], ledger.phases["attention"]:
            time.pass_(10)
        time.pass_(100)
    time.pass_(1_000)
    assert ledger.close() == (1_111, {"layer": 101, "attention": 10, UNATTRIBUTED: 1_000})
    assert ledger.entered == 3


def test_deep_nesting() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    with contextlib.ExitStack() as stack:
        for depth in range(1_000):
            stack.enter_context(ledger.phases[f"{depth % 7}"])
            time.pass_(1)
    wall_ns, spent = ledger.close()
    assert wall_ns == 1_000
    assert spent == {f"{number}": 143 - (number == 6) for number in range(7)} | {UNATTRIBUTED: 0}


def test_leaving_what_was_not_entered_does_nothing() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    ledger.begin()
    ledger.phases["a"].__exit__(None, None, None)
    with ledger.phases["a"]:
        time.pass_(5)
        ledger.phases["b"].__exit__(None, None, None)
        time.pass_(6)
    ledger.phases["a"].__exit__(None, None, None)
    assert ledger.close() == (11, {"a": 11, UNATTRIBUTED: 0})


class Broken:
    """A clock that fails from a certain call on."""

    def __init__(self, error: Callable[[], Any]) -> None:
        self.time = VirtualTime()
        self.error: Callable[[], Any] | None = None
        self._error = error

    def break_(self) -> None:
        self.error = self._error

    def mend(self) -> None:
        self.error = None

    def __call__(self) -> Any:
        return self.time() if self.error is None else self.error()


def counts(name: str) -> bool:
    """Count phases of any thread."""
    return True


def raise_() -> int:
    raise KeyError("no time")


@pytest.mark.parametrize(
    ("error", "expected"),
    [(raise_, KeyError), (lambda: 1.5, TypeError), (lambda: 2**63, OverflowError)],
)
def test_an_error_of_the_clock_is_raised_and_charges_nothing(
    error: Callable[[], Any], expected: type[Exception]
) -> None:
    now = Broken(error)
    ledger = Ledger(now)
    ledger.begin()
    now.time.pass_(3)
    phase = ledger.phases["a"]
    now.break_()
    for call in (phase.__enter__, ledger.begin, ledger.pause, ledger.close):
        with pytest.raises(expected):
            call()
    with pytest.raises(expected):
        Ledger(now)
    now.mend()
    with phase:  # the failed attempt did not open it
        now.time.pass_(4)
        now.break_()
        with pytest.raises(expected):
            phase.__exit__(None, None, None)
        now.mend()
    now.time.pass_(5)
    assert ledger.close() == (12, {"a": 4, UNATTRIBUTED: 8})


def test_the_error_of_the_body_is_not_swallowed() -> None:
    ledger = Ledger(VirtualTime())
    with pytest.raises(ZeroDivisionError), ledger.phases["a"]:
        raise ZeroDivisionError


def test_minus_one_is_a_time() -> None:
    time = VirtualTime(-3)
    ledger = Ledger(time)
    ledger.begin()
    time.pass_(2)
    assert ledger.close() == (2, {UNATTRIBUTED: 2})
    assert ledger.last == -1


def test_a_clock_that_uses_the_ledger() -> None:
    """`now` may run any Python code."""
    time = VirtualTime()
    busy = False

    def now() -> int:
        nonlocal busy
        if not busy:
            busy = True
            with ledger.phases["telling"]:
                time.pass_(1)
            busy = False
        return time()

    busy = True
    ledger = Ledger(now)
    busy = False
    ledger.begin()
    with ledger.phases["a"]:
        time.pass_(10)
    wall_ns, spent = ledger.close()
    assert wall_ns == sum(spent.values()) == 14
    assert spent["telling"] == 4  # also what `begin` asked for


def test_nothing_keeps_a_ledger_alive() -> None:
    time = VirtualTime()
    ledger = Ledger(time)
    open_ = ledger.phases["a"]
    open_.__enter__()
    held = sys.getrefcount(time)
    died = weakref.ref(ledger)
    del ledger
    gc.collect()
    assert died() is not None, "a phase keeps its ledger"
    del open_
    gc.collect()
    assert died() is None
    assert sys.getrefcount(time) == held - 1


def test_no_references_are_lost_or_kept() -> None:
    time = VirtualTime(10**12)
    ledger = Ledger(time)
    broken = Broken(raise_)
    failing = Accounts(broken, "rest", counts)
    phase, name, metrics = ledger.phases["forward"], "forward", {"loss": 1.0, "tokens": 2**40}
    known = {*metrics}
    ledger.begin()
    broken.break_()

    def tick() -> None:
        for _ in range(100):
            with phase, phase:
                time.pass_(10**10)
            ledger.close()
            ledger.pause()
            ledger.begin()
            assert all_plain(metrics, known)
            assert not all_plain({"loss": None}, known)
            for call in (failing.close, failing.begin, Account(failing, name).__enter__):
                with contextlib.suppress(KeyError):
                    call()
            with contextlib.suppress(TypeError):
                Account(None, name)  # type: ignore[arg-type]
            with contextlib.suppress(KeyError):
                Accounts(broken, "rest", counts)

    watched = (phase, ledger, time, broken, name, None, metrics["tokens"], Account, Accounts)
    tick()
    gc.collect()
    before = [sys.getrefcount(value) for value in watched]
    tick()
    gc.collect()
    after = [sys.getrefcount(value) for value in watched]
    made = 100  # accounts of `failing`, which it keeps, each with its name and type
    kept = {4: made, 7: made}
    for index, (was, is_) in enumerate(zip(before, after, strict=True)):
        assert abs(is_ - was - kept.get(index, 0)) < 10, watched[index]
    grown = []
    for _ in range(3):  # other threads of the process allocate too
        blocks = sys.getallocatedblocks()
        tick()
        gc.collect()
        grown.append(sys.getallocatedblocks() - blocks)
    assert min(grown) < made + 100


def test_it_is_not_copied() -> None:
    ledger = Ledger(VirtualTime())
    for value in (ledger, ledger.phases["a"], Accounts(VirtualTime(), "rest", counts)):
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises((TypeError, pickle.PicklingError)):
                attempt(value)


def test_objects_without_init_raise() -> None:
    unmade = Accounts.__new__(Accounts)
    for call in (unmade.begin, unmade.pause, unmade.close, lambda: Account(unmade, "a")):
        with pytest.raises(RuntimeError, match="__init__ was not called"):
            call()
    arguments: Any
    for arguments in ((), (VirtualTime(), "a"), (VirtualTime(), 1, counts), (1, "a", counts, 1)):
        with pytest.raises(TypeError):
            Accounts(*arguments)
    for arguments in ((), (unmade,), (VirtualTime(), "a"), (unmade, 1)):
        with pytest.raises(TypeError):
            Account(*arguments)
    made = Accounts(VirtualTime(), "rest", counts)
    with pytest.raises(RuntimeError, match="is called once"):
        made.__init__(VirtualTime(), "rest", counts)  # type: ignore[misc]
    with pytest.raises(TypeError):
        type("Derived", (Account,), {})
    with pytest.raises(AttributeError):
        made.last = 1  # type: ignore[misc]


def test_threads_in_one_ledger() -> None:
    """It is undefined which phase is charged then, but the times add up."""
    time = VirtualTime()
    ledger = Ledger(time)
    phases = [ledger.phases[name] for name in ("a", "b", "c", "d", "shared")]
    ledger.begin()
    begun, sums = time(), []

    def work(phase: AbstractContextManager[None]) -> None:
        for _ in range(2_000):
            with phase, phases[-1]:
                time.pass_(1)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(phase,)) for phase in phases[:-1]]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            sums.append(ledger.close())
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    sums.append(ledger.close())
    assert all(sum(spent.values()) == wall_ns for wall_ns, spent in sums)
    assert sum(wall_ns for wall_ns, _ in sums) == ledger.last - begun


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1.0, True),
        (float("nan"), True),
        (0, True),
        (LARGEST_INTEGER, True),
        (-LARGEST_INTEGER, True),
        (LARGEST_INTEGER + 1, False),
        (-LARGEST_INTEGER - 1, False),
        (10**30, False),
        (True, False),
        (None, False),
        ("1", False),
        (type("Float", (float,), {})(1.0), False),
        (type("Int", (int,), {})(1), False),
    ],
)
def test_plain_values(value: Any, plain: bool) -> None:
    assert all_plain({"a": value}, {"a"}) is plain
    assert all_plain({"b": 1.0, "a": value}, {"a", "b", "c"}) is plain


def test_plain_names() -> None:
    assert all_plain({}, set())
    assert not all_plain({"a": 1.0, "b": 1.0}, {"a"})
    with pytest.raises(TypeError):
        all_plain({"a": 1.0}, ["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        all_plain({"a": 1.0})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unhashable"):
        all_plain({Unhashable("a"): 1.0}, {"a"})


class Unhashable(str):
    """Can be hashed once, when it becomes a key."""

    hashed = False

    def __hash__(self) -> int:
        if self.hashed:
            raise TypeError("unhashable by now")
        self.hashed = True
        return super().__hash__()
