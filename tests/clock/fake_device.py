"""Accelerators that finish their work on command; until then nothing may wait for them.

`FakeDevice` has device time too. `FakeTorch` and `FakeJax` have as much of these frameworks as the
clock uses.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .virtual import VirtualTime


class Work:
    """The work that a device was given, in order."""

    def __init__(self) -> None:
        self.may_wait = False
        self.given = self.done = 0
        self.error: Exception | None = None

    def give(self) -> int:
        self.given += 1
        return self.given

    def finish(self) -> None:
        """Finish all work that was given so far."""
        self.done = self.given

    def break_down(self) -> None:
        """From now on every question raises an error."""
        self.error = RuntimeError("device-side assert")

    def ready(self, serial: int) -> bool:
        if self.error:
            raise self.error
        return serial <= self.done

    def wait(self, serial: int) -> None:
        if not self.ready(serial):
            assert self.may_wait, "nothing may wait for the device"
            self.done = serial


class FakeDevice(Work):
    """A `Device` with a time of its own.

    Work that is given begins when what was given before is done, so the device may be behind the
    host.
    """

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time
        self._end = time()

    def work(self, ns: int) -> None:
        self._end = self.now() + ns

    def now(self) -> int:
        """The time at which the device reaches a moment that is marked now."""
        return max(self._end, self._time())

    def number(self, value: Any, shape: tuple[int, ...] = ()) -> Tensor:
        return Tensor(self, value, Place("fake", 0), shape)

    def fetch(self, value: Any) -> Pending:
        return Pending(self, self.give(), value.value)

    def mark(self) -> Moment:
        return Moment(self, self.give(), self.now())

    def elapsed_ns(self, begin: Any, end: Any) -> int:
        assert self.ready(end.serial), "asked before the device has come so far"
        return int(end.at - begin.at)


class Place(NamedTuple):
    type: str
    index: int


class Tensor:
    def __init__(self, work: Work, value: Any, device: Place, shape: tuple[int, ...] = ()) -> None:
        self.work, self.value, self.device, self.shape = work, value, device, shape

    def item(self) -> Any:
        assert self.work.may_wait, "nothing may wait for the device"
        return self.value

    def detach(self) -> Tensor:
        return self

    def is_complex(self) -> bool:
        return isinstance(self.value, complex)

    def to(self, where: str, *, non_blocking: bool) -> SimpleNamespace:
        assert (where, non_blocking) == ("cpu", True)
        self.work.give()
        value = self.value  # as it is now, whatever is done in place later
        return SimpleNamespace(item=lambda: value)


class Moment:
    def __init__(self, work: Work, serial: int, at: int = 0) -> None:
        self.work, self.serial, self.at = work, serial, at

    def ready(self) -> bool:
        return self.work.ready(self.serial)

    def wait(self) -> None:
        self.work.wait(self.serial)


class Pending(Moment):
    def __init__(self, work: Work, serial: int, value: Any) -> None:
        super().__init__(work, serial)
        self.value = value

    def get(self) -> float:
        self.wait()
        return float(self.value)


class FakeJax(Work):
    def number(self, value: Any, shape: tuple[int, ...] = ()) -> Array:
        return Array(self, value, shape)


class Array:
    """Like an array of JAX, with its methods to ask whether it is ready, and to copy it."""

    def __init__(self, work: Work, value: Any, shape: tuple[int, ...]) -> None:
        self.work, self.value, self.shape = work, value, shape
        self._serial = work.give()
        self._is_deleted = self._is_copied = False

    def delete(self) -> None:
        """Delete it, as donating it to a compiled function does."""
        self._is_deleted = True

    def is_ready(self) -> bool:
        self._check()
        return self.work.ready(self._serial)

    def copy_to_host_async(self) -> None:
        self._check()
        self._is_copied = True

    def item(self) -> Any:
        self._check()
        assert self._is_copied, "this would have waited for a copy"
        self.work.wait(self._serial)
        return self.value

    def _check(self) -> None:
        if self._is_deleted:
            raise RuntimeError("Array has been deleted with shape=float32[].")


class FakeTorch(Work):
    """Like the module torch, with devices of type `cuda`; the current one has index `current`."""

    def __init__(self) -> None:
        super().__init__()
        self.events_made = self.current = 0
        self.is_initialized = True
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: self.is_initialized,
            current_device=lambda: self.current,
        )
        self.accelerator = SimpleNamespace(current_stream=lambda device: device)
        self.device = Place

    def number(self, value: Any, shape: tuple[int, ...] = (), index: int = 0) -> Tensor:
        return Tensor(self, value, Place("cuda", index), shape)

    def Event(self, device: Place, *, enable_timing: bool) -> Event:  # noqa: N802
        assert enable_timing
        self.events_made += 1
        return Event(self)


class Event:
    """Like an event of torch: bound to the device that first recorded it."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.place: Place | None = None
        self.serial = 0

    def record(self, stream: Place) -> None:
        if self.place not in (None, stream):
            raise RuntimeError("Event device index does not match recording stream's device index")
        self.place, self.serial = stream, self.work.give()

    def query(self) -> bool:
        return self.work.ready(self.serial)

    def synchronize(self) -> None:
        self.work.wait(self.serial)

    def elapsed_time(self, end: Event) -> float:
        if not (self.query() and end.query()):
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return (end.serial - self.serial) / 1e6  # a nanosecond for each thing that was given
