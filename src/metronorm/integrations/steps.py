"""Ticks of another framework's loop, recorded from its callbacks.

A framework reports on a step when its work is over: the loss, then perhaps an evaluation or a
checkpoint. It does not say which report is the last one. So a tick may stay open until the next one
begins, and gets all reports until then. Its *time* ends at its last report; the rest is the wait
for a batch, and is the next tick's phase `data`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError
from metronorm.integrations.axes import require_step
from metronorm.integrations.json_values import as_json
from metronorm.integrations.names import MetricNames
from metronorm.runs import open_run
from metronorm.store.run_directory import RUN_FILE
from metronorm.text import flat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

DATA = "data"

_log = logging.getLogger("metronorm")


class HeldTime:
    """A monotonic clock that can be stopped for a moment: readings then repeat the last one.

    So time can be given to a phase after it has passed. It is stopped for the thread that made it;
    other threads read the true time.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._thread = threading.get_ident()
        self._is_held = False
        self._last = now()

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        if threading.get_ident() != self._thread:
            return self._now()
        if not self._is_held:
            self._last = self._now()
        return self._last

    def read(self) -> int:
        """Return the true time in nanoseconds; the last reading stays as it is."""
        return self._now()

    @contextmanager
    def held(self, at: int | None = None) -> Iterator[None]:
        """Stop the clock for the block, at the last reading or at `at` (nanoseconds)."""
        if at is not None:
            self._last = max(self._last, at)  # never go back behind a reading made since `at`
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False


class Steps:
    """The ticks of one training, as callbacks report them.

    | state | event | next state |
    | --- | --- | --- |
    | no open tick | `begin` | working |
    | working | `end_work` | reporting: the tick is open, as reports may follow |
    | reporting | `log`, `phase`, `assign_elapsed` | reporting |
    | reporting | `write` | no open tick; the record is written |
    | reporting | `begin` | working; the record of the tick before is written first |
    | no open tick, reporting | `close` | closed; the record of an open tick is written |
    | working | `close` | closed; the unfinished tick has no record |

    Args:
        owner: the callback; when it is collected as garbage, or the process ends, the run is
            closed.
        directory: the run's directory.
        start: the number of updates that the training has made already, as its framework counts
            them. If it is not 0, an existing run is continued.
        resume: continue an existing run; its last tick counts if `start` is 0.
        again: whether the training begins again at `start`, even at 0, as a new attempt of the run.
        config: values for `run.json`; what JSON cannot hold becomes text.
        name: the run's name; by default the directory's name.
        now: a monotonic clock in integer nanoseconds.

    Raises:
        RunError: what `Clock` raises.

    Where phases are measured in an accelerator's time, `assign_elapsed` cannot change the phase of
    time that has passed, and the wait for a batch counts to the tick before if that is still open.
    """

    def __init__(
        self,
        owner: object,
        directory: str | os.PathLike[str],
        *,
        start: int = 0,
        resume: bool = False,
        again: bool = False,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        is_run = (Path(directory) / RUN_FILE).exists()
        if resume and is_run and not start and not again:
            start = _last_tick(directory)
        resume = resume or (start > 0 and is_run)
        left = _open.get(os.path.realpath(directory)) if resume else None
        if left is not None:
            # An exception has ended that training, and its callback is still in a variable, as in a
            # notebook.
            left.abandon()
        self.time = HeldTime(now)
        self.clock = Clock(
            directory,
            config=as_json(config or {}),
            resume=resume,
            name=name,
            progress=False,
            now=self.time,
        )
        self.clock.open()
        self.clock.tick = start
        self.running = False
        self._has_begun = False  # a first tick
        self._is_open = self._is_closed = False
        self._is_logger = False  # `log_step` is used, so an end without `close` is normal
        self._has_warned = False
        self._beats = 1
        self._names = MetricNames()
        self._phase: str | None = None
        self._entered: AbstractContextManager[None] | None = None
        self._finalizer = weakref.finalize(owner, self.abandon)
        _open[os.path.realpath(directory)] = self

    # --- ticks ----------------------------------------------------------------------------------

    def begin(self, tick: int | None = None, *, at: int | None = None) -> None:
        """Begin the work of the next tick, after the wait for its batch; write the tick before.

        Args:
            tick: the tick's number; by default the next one.
            at: when the work began, if that was earlier: a value of `time.read()`.
        """
        self._begin(self.clock.tick + 1 if tick is None else tick, DATA)
        with nullcontext() if at is None else self.time.held(at):
            self.phase(None)
        self.running = True

    def _begin(self, tick: int, wait: str | None) -> None:
        if self._phase not in (DATA, None):
            self.phase(None)
        with self.time.held():
            self.write()
            self.clock.tick = tick - 1
            self.clock.begin_tick()
            self._is_open = self._has_begun = True
            self.phase(wait)

    def end_work(self, *, beats: int = 1) -> None:
        """End the work of the tick; reports may follow. The time from now on is a wait, so far."""
        self._beats = beats
        self.running = False
        self.phase(DATA)

    def write(self) -> None:
        """Write the record of the open tick, if there is one: no report will follow."""
        if self._is_open:
            phase = self._phase
            self.phase(None)
            self._is_open = False
            self.clock.end_tick(beats=self._beats)
            self.phase(phase)

    # --- phases ---------------------------------------------------------------------------------

    def phase(self, name: str | None) -> None:
        """Begin a phase, and end the one before; None: no phase."""
        if self._entered is not None:
            self._entered.__exit__(None, None, None)
        else:
            self.time()
        self._phase = name if self._has_begun else None
        self._entered = None if self._phase is None else self.clock.phase(self._phase)
        if self._entered is not None:
            self._entered.__enter__()

    def assign_elapsed(self, name: str | None) -> None:
        """Give the time since the last call to a phase; None: no phase. Then a wait begins."""
        with self.time.held():
            self.phase(name)
        self.phase(DATA)

    # --- values ---------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any]) -> None:
        """Record numbers as metrics of the open tick, and anything else as an event `logged`.

        Numbers in a mapping are named `OUTER/INNER`. A name that a metric cannot have gets an
        underscore at its end. Without an open tick all values are in the event.
        """
        values = flat(values, "/")
        is_waiting = self._phase == DATA
        if is_waiting:
            with self.time.held():
                self.phase(None)  # the time until now was the tick's, not a wait
        others = self._log_metrics(values) if self._is_open else dict(values)
        if others:
            self.clock.event("logged", values=others)
        if is_waiting:
            self.phase(DATA)

    def _log_metrics(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Log values as metrics; return those that are not numbers."""
        try:
            self.clock.log(**{self._names[name]: value for name, value in values.items()})
        except (ConfigError, TypeError):
            if len(values) == 1:
                return dict(values)
            found = [self._log_metrics({name: value}) for name, value in values.items()]
            return {name: value for entry in found for name, value in entry.items()}
        return {}

    def log_step(self, step: int | None, values: Mapping[str, Any]) -> None:
        """Record the values of a step, for loggers, which see nothing else: a step is a tick.

        Values of the same step go to the same tick. Values of an earlier step become an event, and
        the first such event warns. Without a step, values go to the next tick.

        Raises:
            ConfigError: the step is not an integer of 64 bits.
        """
        step = self.clock.tick + 1 if step is None else require_step(step)
        self._is_logger = True
        if step > self.clock.tick or not self._has_begun:
            self._begin(step, None)
        elif not (self._is_open and step == self.clock.tick):
            self.clock.event("logged", values={"step": step} | flat(values, "/"))
            self._warn_of_late(step, values)
            return
        self.log(values)
        self.phase(None)

    def _warn_of_late(self, step: int, values: Mapping[str, Any]) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s: %s of step %d came after step %d and became an event 'logged', not a metric; "
                "so will all values of earlier steps; log the values of a step together, and those "
                "that are counted otherwise (by epochs) without a step",
                self.clock.directory,
                ", ".join(map(repr, values)),
                step,
                self.clock.tick,
            )

    # --- the end --------------------------------------------------------------------------------

    def close(self, error: BaseException | None = None) -> None:
        """End the training, with `error` if there is one; an unfinished tick has no record."""
        if self._is_closed:
            return
        self._is_closed = True
        self._finalizer.detach()
        with self.time.held():
            if not self.running:
                self.write()
            self.phase(None)
        self.clock.close(error)

    def abandon(self) -> None:
        """End a training that was not closed: by an error, unless a logger recorded it."""
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        if error is None and not self._is_logger:
            error = RunError("the training was left before its end")
        self.close(error)


_open: weakref.WeakValueDictionary[str, Steps] = weakref.WeakValueDictionary()


def _last_tick(directory: str | os.PathLike[str]) -> int:
    ticks = open_run(directory).ticks()
    return int(ticks.sql("select coalesce(max(tick), 0) from ticks").fetchall()[0][0])
