"""Pauses of Python's garbage collector: their time in each tick, and long ones as events."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

from metronorm.clock.phase_accounts import Pauses

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_PAUSE_NS = 10_000_000  # shorter pauses are no events


class GarbagePauses:
    """Measures collections of garbage, in whatever thread they run.

    Args:
        event: records an event by its name and fields.
    """

    take: Callable[[], int]
    """The nanoseconds that collections took since the last call."""

    def __init__(self, event: Callable[..., None]) -> None:
        self._event = event
        # not in the clock's own time: a virtual time may count how often it is read
        self._pauses = Pauses(time.perf_counter_ns, LONG_PAUSE_NS)
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()
        self.take = self._pauses.take  # one call at every tick, not two

    def start(self) -> None:
        """Measure from now on."""
        gc.callbacks.append(self._pauses.notice)

    def stop(self) -> None:
        """Measure no more; without `start` this does nothing."""
        if self._pauses.notice in gc.callbacks:
            gc.callbacks.remove(self._pauses.notice)

    def report_long(self) -> None:
        """Record an event `gc` for each pause of `LONG_PAUSE_NS` or more since the last call."""
        for generation, since, duration_ns in self._pauses.take_longest():
            self._event(
                "gc",
                generation=generation,
                start_ns=self._epoch_ns + since,
                duration_ns=duration_ns,
            )
