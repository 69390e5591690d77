"""Accelerators, without waiting for them: values on their way to the host, and device time.

No framework is imported: a value says by its methods whose it is, and torch is used where the
process has loaded it.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


_KINDS = ("cuda", "xpu", "mps")  # torch has events for these; a value of any other is waited for


class Pending(Protocol):
    """A number that is on its way."""

    def ready(self) -> bool:
        """Whether it has arrived; never waits."""

    def get(self) -> float:
        """The number; waits if it must."""


class Moment(Protocol):
    """A point in a device's stream of work."""

    def ready(self) -> bool:
        """Whether the device has come to it; never waits."""

    def wait(self) -> None:
        """Until the device has come to it."""


class Device(Protocol):
    """What the clock asks of an accelerator. `TorchDevice` is one; a test may bring its own."""

    def fetch(self, value: Any) -> Pending:
        """Begin to copy a one-element value to the host."""

    def mark(self) -> Moment:
        """A moment after all work that was given to the device so far."""

    def elapsed_ns(self, begin: Moment, end: Moment) -> int:
        """Device time between two moments that it has come to."""


class TorchDevice:
    """An accelerator of torch: CUDA, ROCm, XPU or MPS.

    Args:
        torch: the module.
        device: a `torch.device` with its index: a process may use several.
    """

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch, self._device = torch, device
        self._free: list[Any] = []

    def fetch(self, value: Any) -> Pending:
        """Copied into pinned memory, which torch takes for a copy that does not block."""
        value = value.detach()
        if hasattr(value, "full_tensor"):  # of a DTensor each rank has a part; all of them log it
            value = value.full_tensor()
        return _TorchPending(value.to("cpu", non_blocking=True), self.mark())

    def mark(self) -> Moment:
        """An event on the device's current stream, from a pool."""
        free = self._free
        event = free.pop() if free else self._torch.Event(device=self._device, enable_timing=True)
        # without a stream it would be that of the current device, which may be another one
        event.record(self._torch.accelerator.current_stream(self._device))
        return _TorchMoment(event, free)

    def elapsed_ns(self, begin: Moment, end: Moment) -> int:
        """By the device's own clock, to about half a microsecond."""
        assert isinstance(begin, _TorchMoment)
        assert isinstance(end, _TorchMoment)
        milliseconds: float = begin.event.elapsed_time(end.event)
        return round(milliseconds * 1e6)


class _TorchMoment:
    """Gives its event back to the pool when nobody needs it any more."""

    __slots__ = ("_free", "event")

    def __init__(self, event: Any, free: list[Any]) -> None:
        self.event, self._free = event, free

    def __del__(self) -> None:
        self._free.append(self.event)

    def ready(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()


class _TorchPending:
    def __init__(self, host: Any, moment: Moment) -> None:
        self._host, self._moment = host, moment

    def ready(self) -> bool:
        return self._moment.ready()

    def get(self) -> float:
        self._moment.wait()
        return float(self._host.item())


class _JaxPending:
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


def fetcher(value: Any, device: Device | None) -> Callable[[Any], Pending] | None:
    """How to fetch a value without waiting; None if it is on the host already."""
    if hasattr(value, "copy_to_host_async"):  # a JAX array, on whatever device
        return None if value.is_ready() else _JaxPending
    place = getattr(value, "device", None)
    kind = getattr(place, "type", "cpu")
    if kind in ("cpu", "meta"):
        return None
    if device is not None:
        return device.fetch
    torch = sys.modules.get("torch")
    return _of_torch(torch, place).fetch if torch and kind in _KINDS else None


@functools.cache  # one pool of events for each
def _of_torch(torch: Any, device: Any) -> TorchDevice:
    return TorchDevice(torch, device)
