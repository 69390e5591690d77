"""Accelerators, without waiting for them: values on their way to the host, and device time.

No framework is imported: a value says by its methods whose it is, and torch is used where the
process has loaded it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


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
    """The accelerator of torch: CUDA, ROCm, XPU or MPS."""

    def __init__(self, torch: Any, kind: str) -> None:
        self._torch, self._kind = torch, kind
        self._free: list[Any] = []

    def fetch(self, value: Any) -> Pending:
        """Copied into pinned memory, which torch takes for a copy that does not block."""
        return _TorchPending(value.detach().to("cpu", non_blocking=True), self.mark())

    def mark(self) -> Moment:
        """An event on the current stream, from a pool."""
        free = self._free
        event = free.pop() if free else self._torch.Event(device=self._kind, enable_timing=True)
        event.record()
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
            return TorchDevice(torch, kind)
    return None


def fetcher(value: Any, device: Device | None) -> Callable[[Any], Pending] | None:
    """How to fetch a value without waiting; None if it is on the host already."""
    if hasattr(value, "copy_to_host_async"):  # a JAX array, on whatever device
        return None if value.is_ready() else _JaxPending
    kind = getattr(getattr(value, "device", None), "type", "cpu")
    if kind in ("cpu", "meta"):
        return None
    if device is not None:
        return device.fetch
    return TorchDevice(sys.modules["torch"], kind).fetch if "torch" in sys.modules else None
