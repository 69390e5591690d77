"""The watcher: threads that sample the machine once a second and notice stalls."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.clock.resources import Resources
from metronorm.clock.stall import Stalls, StallWatch, load_what_notify_uses, notify, stacks

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # how long closing waits for a GPU that does not answer


class Watcher:
    """Samples the machine and looks for stalls once a second, away from the training thread.

    | thread | once a second | at the end |
    | --- | --- | --- |
    | `metronorm-watcher` | a sample of the machine | one more sample |
    | `metronorm-stall`, if `stall` is given | between loops: begin anew; else look for a stall | |

    There are two threads because a GPU that hangs also hangs the thread that samples it. Both are
    daemons, so they never keep the process alive. The clock has one thread more, the `Writer`, and
    where it keeps samples another, the `SampleWriter`.

    Args:
        tick: returns the number of the running tick.
        running: returns whether ticks are expected: false between loops.
        record: takes a sample, values by name.
        event: takes an event's name and fields, and returns its record.
        stall: when missing ticks are a stall; None: never.
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
        with contextlib.suppress(OSError):  # the working directory may be removed
            self._folder = Path.cwd()
        self._closing = threading.Event()
        self._threads = [self._start("metronorm-watcher", self._sample)]
        if stall is not None:
            self._threads.append(self._start("metronorm-stall", lambda: self._look(stall)))

    def _start(self, name: str, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _sample(self) -> None:
        resources = Resources(self._report_missing)
        self._record(resources.sample())
        while not self._closing.wait(PERIOD_SECONDS):
            self._record(resources.sample())
        self._record(resources.sample())

    def _report_missing(self, what: str, reason: str) -> None:
        self._event("not sampled", what=what, why=reason)

    def _look(self, watch: StallWatch) -> None:
        load_what_notify_uses(watch)
        stalls = Stalls(watch, time.monotonic_ns())
        while not self._closing.wait(PERIOD_SECONDS):
            if not self._running():  # no tick is expected between two loops
                stalls = Stalls(watch, time.monotonic_ns())
                continue
            seconds = stalls.look(self._tick(), time.monotonic_ns())
            if seconds is not None:
                event = self._event("stall", seconds=seconds, stacks=stacks())
                notify(watch, event, self._folder)

    def close(self) -> None:
        """Take a last sample and stop; waits `PATIENCE_SECONDS` at most."""
        self._closing.set()
        until = time.monotonic() + PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
