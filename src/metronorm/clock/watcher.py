"""The watcher: a thread that samples resources once a second and notices stalls."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from metronorm.clock.resources import Resources
from metronorm.clock.stall import Stalls, StallWatch, stacks, tell

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_SECONDS = 1.0


class Watcher:
    """Looks once a second, off the training thread.

    Args:
        tick: the number of ticks done.
        record: takes a sample.
        event: takes an event's name and fields.
        stall: when to call it a stall; None: never.
    """

    def __init__(
        self,
        tick: Callable[[], int],
        record: Callable[[dict[str, float]], None],
        event: Callable[..., dict[str, Any]],
        stall: StallWatch | None,
    ) -> None:
        self._tick, self._record, self._event, self._stall = tick, record, event, stall
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metronorm-watcher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        resources = Resources(self._missing)
        stalls = Stalls(self._stall, time.monotonic_ns()) if self._stall else None
        self._record(resources.sample())
        while not self._closing.wait(PERIOD_SECONDS):
            self._record(resources.sample())
            if stalls and self._stall:
                seconds = stalls.look(self._tick(), time.monotonic_ns())
                if seconds is not None:
                    tell(self._stall, self._event("stall", seconds=seconds, stacks=stacks()))
        self._record(resources.sample())

    def _missing(self, what: str, why: str) -> None:
        self._event("not sampled", what=what, why=why)

    def close(self) -> None:
        """Take a last sample and stop."""
        self._closing.set()
        self._thread.join(PERIOD_SECONDS)
