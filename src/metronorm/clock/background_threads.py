"""The watcher: threads that sample resources once a second and notice stalls."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.clock.resources import Resources
from metronorm.clock.stall import Stalls, StallWatch, stacks, tell

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # how long closing waits for a GPU that does not answer


class Watcher:
    """Looks once a second, off the training thread.

    Args:
        tick: the number of ticks done.
        running: whether a tick is.
        record: takes a sample.
        event: takes an event's name and fields.
        stall: when to call it a stall; None: never.
    """

    def __init__(
        self,
        tick: Callable[[], int],
        running: Callable[[], bool],
        record: Callable[[dict[str, float]], None],
        event: Callable[..., dict[str, Any]],
        stall: StallWatch | None,
    ) -> None:
        self._tick, self._running, self._record, self._event = tick, running, record, event
        self._folder: Path | None = None
        with contextlib.suppress(OSError):  # it was removed
            self._folder = Path.cwd()
        self._closing = threading.Event()
        self._threads = [self._begin("metronorm-watcher", self._sample)]
        if stall is not None:  # a GPU that hangs may hang the one that samples it
            self._threads.append(self._begin("metronorm-stall", lambda: self._look(stall)))

    def _begin(self, name: str, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _sample(self) -> None:
        resources = Resources(self._missing)
        self._record(resources.sample())
        while not self._closing.wait(PERIOD_SECONDS):
            self._record(resources.sample())
        self._record(resources.sample())

    def _missing(self, what: str, why: str) -> None:
        self._event("not sampled", what=what, why=why)

    def _look(self, watch: StallWatch) -> None:
        stalls = Stalls(watch, time.monotonic_ns())
        while not self._closing.wait(PERIOD_SECONDS):
            if not self._running():  # no tick is expected between two loops
                stalls = Stalls(watch, time.monotonic_ns())
                continue
            seconds = stalls.look(self._tick(), time.monotonic_ns())
            if seconds is not None:
                event = self._event("stall", seconds=seconds, stacks=stacks())
                tell(watch, event, self._folder)

    def close(self) -> None:
        """Take a last sample and stop."""
        self._closing.set()
        until = time.monotonic() + PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
