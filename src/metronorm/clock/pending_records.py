"""Records with values that are still on an accelerator: they are written a few ticks later."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metronorm.clock.device import PendingValue
from metronorm.clock.device_ledger import DevicePhases
from metronorm.store.schema import TickRecord

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

MOST = 4096  # records that may wait; no device is that far behind the host
_POLL_SECONDS = 0.001

_log = logging.getLogger("metronorm")


@dataclass
class PendingRecord:
    """A record without its phases, without some of its metrics, or both.

    Args:
        record: its metrics are None where `values` has the name.
        phases: the phases in device time; None: `record` has them.
        values: metrics on their way, by name.
    """

    record: TickRecord
    phases: DevicePhases | None
    values: dict[str, PendingValue]

    @property
    def tick(self) -> int:
        """The number of the record's tick."""
        return self.record.tick

    def ready(self) -> bool:
        """Whether everything has arrived that will arrive; never waits."""
        if self.phases is not None and not _ready(self.phases):
            return False
        return all(map(_ready, self.values.values()))

    def get(self, *, wait: bool = False) -> TickRecord:
        """The record with what has arrived, or waits for the rest; what failed is left out."""
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


def write_ready(pending: deque[PendingRecord], write: Callable[[TickRecord], None]) -> None:
    """Write the records that are ready, oldest first, up to the first that is not.

    A device finishes in order, so a record after one that is not ready is not ready either. Beyond
    `MOST` the oldest records are written without what is missing.
    """
    while pending and (pending[0].ready() or len(pending) > MOST):
        write(pending.popleft().get())


def write_all(
    pending: deque[PendingRecord],
    write: Callable[[TickRecord], None],
    patience_seconds: float | None,
) -> None:
    """Write all records, and wait for the device.

    Args:
        pending: the records, oldest first; empty afterwards.
        write: gets each complete record.
        patience_seconds: how long to wait at most; what is missing then is left out. None: no end.
    """
    until = time.monotonic() + (patience_seconds or 0.0)
    while pending:
        record = pending.popleft()
        while patience_seconds is not None and not record.ready() and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        write(record.get(wait=patience_seconds is None))


def _ready(part: PendingValue | DevicePhases) -> bool:
    try:
        return part.ready()
    except Exception:  # a device failed or an array was deleted: nothing will arrive
        return True


def _get(part: PendingValue | DevicePhases, what: str, wait: bool) -> Any:
    """None if it is not there; errors of an accelerator must not reach the training."""
    try:
        if wait or part.ready():
            return part.get()
        _warn_once(what, "it took too long")
    except Exception as error:
        _warn_once(what, f"{type(error).__name__}: {error}")
    return None


@functools.lru_cache(maxsize=256)
def _warn_once(what: str, why: str) -> None:
    _log.warning("%s did not arrive from the device and is not recorded (%s)", what, why)
