"""Accelerators, without waiting for them: values on their way to the host, and device time.

No framework is imported: the methods of a value show to which framework it belongs, and torch is
used where the process has loaded it.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


_KINDS = ("cuda", "xpu", "mps")  # torch has events for these; values of other kinds are waited for


class PendingValue(Protocol):
    """A number that is on its way from a device to the host."""

    def ready(self) -> bool:
        """Whether it has arrived; never waits."""

    def get(self) -> float:
        """The number; waits until it has arrived."""


class Moment(Protocol):
    """A point in a device's stream of work."""

    def ready(self) -> bool:
        """Whether the device has reached it; never waits."""

    def wait(self) -> None:
        """Wait until the device has reached it."""


class Device(Protocol):
    """What the clock needs of an accelerator. `TorchDevice` is one; tests may have their own."""

    def fetch(self, value: Any) -> PendingValue:
        """Begin to copy a value of one element to the host."""

    def mark(self) -> Moment:
        """A moment after all work that the device has been given so far."""

    def elapsed_ns(self, begin: Moment, end: Moment) -> int:
        """Nanoseconds of device time between two moments that the device has reached."""


class TorchDevice:
    """An accelerator of torch: CUDA, ROCm, XPU or MPS.

    Args:
        torch: the module `torch`.
        device: a `torch.device` with its index: a process may use several.
    """

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch, self._device = torch, device
        self._events = _Events(lambda: torch.Event(device=device, enable_timing=True))

    def fetch(self, value: Any) -> PendingValue:
        """Begin to copy a tensor of one element into pinned memory, without blocking."""
        return self.copy(value)

    def copy(self, value: Any) -> _TorchValue:
        """Begin to copy a tensor of any shape; see `fetch`."""
        value = value.detach()
        if hasattr(value, "full_tensor"):  # each rank has a part of a DTensor; all ranks log it
            value = value.full_tensor()
        return _TorchValue(value.to("cpu", non_blocking=True), self.mark())

    def mark(self) -> Moment:
        """A moment in the device's current stream."""
        event = self._events.take()
        # without a stream it would be the stream of the current device, which may be another one
        event.record(self._torch.accelerator.current_stream(self._device))
        moment = _TorchMoment(event)
        self._events.use(event, moment)
        return moment

    def elapsed_ns(self, begin: Moment, end: Moment) -> int:
        """Nanoseconds between two moments, by the device's clock, to about 500 ns."""
        assert isinstance(begin, _TorchMoment)
        assert isinstance(end, _TorchMoment)
        milliseconds: float = begin.event.elapsed_time(end.event)
        return round(milliseconds * 1e6)


class _Events:
    """Events of one device. An event is free again when nothing refers to its moment any more.

    Args:
        make: makes an event.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        # in the order of their use: moments are dropped in nearly the same order
        self._used: deque[tuple[Any, weakref.ref[Any]]] = deque()

    def take(self) -> Any:
        """A free event, or a new one."""
        # two, and not only the oldest: a moment that is kept for long must not block all others
        for _ in range(min(2, len(self._used))):
            event, moment = self._used.popleft()
            if moment() is None:
                return event
            self._used.append((event, moment))
        return self._make()

    def use(self, event: Any, moment: Any) -> None:
        """Keep `event` until `moment` is dropped."""
        self._used.append((event, weakref.ref(moment)))


class _TorchMoment:
    __slots__ = ("__weakref__", "event")

    def __init__(self, event: Any) -> None:
        self.event = event

    def ready(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()


class _TorchValue:
    def __init__(self, host: Any, moment: Moment) -> None:
        self._host, self._moment = host, moment

    def ready(self) -> bool:
        return self._moment.ready()

    def get(self) -> float:
        return float(self.tensor().item())

    def tensor(self) -> Any:
        """The copy on the host; waits until it has arrived."""
        self._moment.wait()
        return self._host


class _JaxValue:
    def __init__(self, value: Any) -> None:
        value.copy_to_host_async()
        self._value = value

    def ready(self) -> bool:
        return bool(self._value.is_ready())

    def get(self) -> float:
        return float(self._value.item())


def find_device() -> Device | None:
    """The accelerator that this process uses already, or None."""
    torch = sys.modules.get("torch")
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available() and module.is_initialized():
            return _of_torch(torch, torch.device(kind, module.current_device()))  # type: ignore[union-attr]
    return None


def fetcher(value: Any, device: Device | None) -> Callable[[Any], PendingValue] | None:
    """The function that fetches a value without waiting; None for a value on the host.

    Args:
        value: an array or a tensor of one element, or a number.
        device: fetches values that are not on the host; None: the value's own framework does.
    """
    if hasattr(value, "copy_to_host_async"):  # a JAX array, on whatever device
        return None if value.is_ready() else _JaxValue
    place = getattr(value, "device", None)
    kind = getattr(place, "type", "cpu")
    if kind in ("cpu", "meta"):
        return None
    if device is not None:
        return device.fetch
    torch = sys.modules.get("torch")
    return _of_torch(torch, place).fetch if torch and kind in _KINDS else None


def begin_copy(tensor: Any) -> Callable[[], Any]:
    """Begin to copy a tensor of torch, of any shape, from its accelerator to the host.

    Returns:
        A function that waits for the copy, in any thread, and returns it.
    """
    torch, place = sys.modules.get("torch"), tensor.device
    if torch is None or place.type not in _KINDS:
        copy = tensor.detach().to("cpu")
        return lambda: copy
    # (a pool of its own: the others belong to the thread that trains)
    return TorchDevice(torch, place).copy(tensor).tensor


@functools.cache  # one pool of events for each device
def _of_torch(torch: Any, device: Any) -> TorchDevice:
    return TorchDevice(torch, device)
