"""Records whose values are still on an accelerator: they land a few ticks later."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metronorm.clock.device import Pending
from metronorm.clock.device_ledger import DevicePhases
from metronorm.store.schema import TickRecord

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

MOST = 4096  # records that wait; a device is never that far behind
_POLL_SECONDS = 0.001

_log = logging.getLogger("metronorm")


@dataclass
class Late:
    """A record that lacks its phases, some of its metrics, or both."""

    record: TickRecord
    phases: DevicePhases | None
    values: dict[str, Pending]

    @property
    def tick(self) -> int:
        """Of the record."""
        return self.record.tick

    def ready(self) -> bool:
        """Whether nothing is missing that will come; never waits."""
        if self.phases is not None and not _ready(self.phases):
            return False
        return all(map(_ready, self.values.values()))

    def get(self, *, wait: bool = False) -> TickRecord:
        """The record with all that has arrived, or with `wait` will; the rest is left out."""
        record = self.record
        if self.phases is not None:
            found = _get(self.phases, "the phases of a tick", wait)
            if found is not None:
                record.wall_ns, record.phases = found
        for name, pending in self.values.items():
            value = _get(pending, f"the metric {name!r}", wait)
            if value is None:
                del record.metrics[name]
            else:
                record.metrics[name] = value
        return record


def land(waiting: deque[Late], write: Callable[[TickRecord], None]) -> None:
    """Write the records that have arrived, oldest first.

    A device finishes in order, so what comes after one that has not arrived is not there either.
    Of more than `MOST` the oldest are written without what is missing.
    """
    while waiting and (waiting[0].ready() or len(waiting) > MOST):
        write(waiting.popleft().get())


def land_all(
    waiting: deque[Late],
    write: Callable[[TickRecord], None],
    patience_seconds: float | None,
) -> None:
    """Write all records, waiting for the device; with `patience_seconds` no longer than these.

    What is not there then is left out.
    """
    until = time.monotonic() + (patience_seconds or 0.0)
    while waiting:
        late = waiting.popleft()
        while patience_seconds is not None and not late.ready() and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        write(late.get(wait=patience_seconds is None))


def _ready(part: Pending | DevicePhases) -> bool:
    try:
        return part.ready()
    except Exception:  # a device that failed, an array that was deleted: nothing will come
        return True


def _get(part: Pending | DevicePhases, what: str, wait: bool) -> Any:
    """None if it is not there; what an accelerator can raise must not reach training."""
    try:
        if wait or part.ready():
            return part.get()
        _tell(what, "it took too long")
    except Exception as error:
        _tell(what, f"{type(error).__name__}: {error}")
    return None


@functools.lru_cache(maxsize=256)  # once each
def _tell(what: str, why: str) -> None:
    _log.warning("%s did not arrive from the device and is not on record (%s)", what, why)
