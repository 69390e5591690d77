"""Records whose values are still on an accelerator: they land a few ticks later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.clock.device import Pending
from metronorm.clock.device_ledger import DevicePhases
from metronorm.clock.record import TickRecord

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable


@dataclass
class Late:
    """A record that lacks its phases, some of its metrics, or both."""

    record: TickRecord
    phases: DevicePhases | None
    values: dict[str, Pending]

    def ready(self) -> bool:
        """Whether nothing is missing any more; never waits."""
        if self.phases is not None and not self.phases.ready():
            return False
        return all(value.ready() for value in self.values.values())

    def get(self) -> TickRecord:
        """The whole record; waits if it must."""
        if self.phases is not None:
            self.record.wall_ns, self.record.phases = self.phases.get()
        for name, value in self.values.items():
            self.record.metrics[name] = value.get()
        return self.record


def land(waiting: deque[Late], write: Callable[[TickRecord], None], *, wait: bool = False) -> None:
    """Write the records that have arrived, oldest first; with `wait`, all.

    A device finishes in order, so what comes after one that has not arrived is not there either.
    """
    while waiting and (wait or waiting[0].ready()):
        write(waiting.popleft().get())
