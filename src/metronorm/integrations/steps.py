"""Ticks of somebody else's loop, told of by callbacks.

Frameworks report on a step when it is over: its loss, then perhaps an evaluation, a checkpoint.
None says what comes last. So a tick may stay open until the next one begins, and what is said of it
until then is its own; its *time* ends at the last thing that was said, and the rest, the wait for a
batch, is the next tick's `data`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError
from metronorm.integrations.axes import require_step
from metronorm.integrations.names import MetricNames
from metronorm.runs import open_run
from metronorm.store.run_directory import RUN_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

DATA = "data"

_log = logging.getLogger("metronorm")


class HeldTime:
    """A clock whose hand can be held: a reading then gives the one before once more.

    That is how time gets its phase after it has passed. Only the thread that made it sees it held.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._thread = threading.get_ident()
        self._is_held = False
        self._last = now()

    def __call__(self) -> int:
        """Nanoseconds."""
        if threading.get_ident() != self._thread:
            return self._now()
        if not self._is_held:
            self._last = self._now()
        return self._last

    def read(self) -> int:
        """Nanoseconds; the hand stays where it is."""
        return self._now()

    @contextmanager
    def held(self, at: int | None = None) -> Iterator[None]:
        """Readings inside are the last one before, or `at`."""
        if at is not None:
            self._last = max(self._last, at)  # time does not go back, whoever read it meanwhile
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False


class Steps:
    """The ticks of one training, as callbacks tell of them.

    Args:
        owner: the callback; when it goes, or the process ends, what is open is closed.
        directory: the run.
        start: updates that the training has behind it, as its framework counts them. If there are
            any, a run that is there is continued.
        resume: continue the run that is there, and its count if the framework's is 0.
        again: the training begins again at `start`, even if that is 0: a new attempt of the run.
        config: what is to stand in `run.json`; what is not plain JSON stands there as text.
        name: of the run; the directory's by default.
        now: a monotonic clock in integer nanoseconds.

    Raises:
        RunError: what `Clock` raises.

    Where phases are measured in an accelerator's time, what has passed keeps the phase it had, and
    the wait for a batch counts to the tick before if that was still open.
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
        there = (Path(directory) / RUN_FILE).exists()
        if resume and there and not start and not again:
            start = _last_tick(directory)
        resume = resume or (start > 0 and there)
        if resume:
            _abandon_left(directory)
        self.time = HeldTime(now)
        self.clock = Clock(
            directory,
            config=plain(config or {}),
            resume=resume,
            name=name,
            progress=False,
            now=self.time,
        )
        self.clock.open()
        self.clock.tick = start
        self.running = False
        self._begun = self._open = self._closed = self._is_logged = self._warned = False
        self._beats = 1
        self._names = MetricNames()
        self._phase: str | None = None
        self._entered: AbstractContextManager[None] | None = None
        self._finalizer = weakref.finalize(owner, self.abandon)
        _open[os.path.realpath(directory)] = self

    # --- ticks ----------------------------------------------------------------------------------

    def begin(self, tick: int | None = None, *, at: int | None = None) -> None:
        """The work of the next tick begins, after a wait for its batch; the one before is written.

        Args:
            tick: its number, if that is not the next one.
            at: when it began, if that was before: a `time.read()`.
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
            self._open = self._begun = True
            self.phase(wait)

    def end_work(self, *, beats: int = 1) -> None:
        """The work of the tick is over; more may be said of it. What follows is a wait, so far."""
        self._beats = beats
        self.running = False
        self.phase(DATA)

    def write(self) -> None:
        """Nothing more will be said of the tick: put it on record."""
        if self._open:
            phase = self._phase
            self.phase(None)
            self._open = False
            self.clock.end_tick(beats=self._beats)
            self.phase(phase)

    # --- phases ---------------------------------------------------------------------------------

    def phase(self, name: str | None) -> None:
        """From now on it is this phase; None: no phase."""
        if self._entered is not None:
            self._entered.__exit__(None, None, None)
        else:
            self.time()
        self._phase = name if self._begun else None
        self._entered = None if self._phase is None else self.clock.phase(self._phase)
        if self._entered is not None:
            self._entered.__enter__()

    def assign_elapsed(self, name: str | None) -> None:
        """What passed since the last call was this phase; None: no phase. Then a wait, so far."""
        with self.time.held():
            self.phase(name)
        self.phase(DATA)

    # --- values ---------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any]) -> None:
        """Numbers become metrics of the open tick; all else, and all between ticks, an event.

        Those in a mapping are named `OUTER/INNER`. A name that a metric cannot have gets an
        underscore at its end.
        """
        values = flat(values)
        waiting = self._phase == DATA
        if waiting:
            with self.time.held():
                self.phase(None)  # so it was no wait
        others = self._metrics(values) if self._open else dict(values)
        if others:
            self.clock.event("logged", values=others)
        if waiting:
            self.phase(DATA)

    def _metrics(self, values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self.clock.log(**{self._names[name]: value for name, value in values.items()})
        except (ConfigError, TypeError):
            if len(values) == 1:
                return dict(values)
            found = [self._metrics({name: value}) for name, value in values.items()]
            return {name: value for entry in found for name, value in entry.items()}
        return {}

    def log_step(self, step: int | None, values: Mapping[str, Any]) -> None:
        """For loggers, which hear of nothing but a step's values: a new step is a new tick.

        Values of the same step are of the same tick; those of an earlier one become an event, of
        which the first warns. Without a step they are of the next one.

        Raises:
            ConfigError: a step that is no integer of 64 bits.
        """
        step = self.clock.tick + 1 if step is None else require_step(step)
        self._is_logged = True
        if step > self.clock.tick or not self._begun:
            self._begin(step, None)
        elif not (self._open and step == self.clock.tick):
            self.clock.event("logged", values={"step": step} | flat(values))
            self._warn_of_late(step, values)
            return
        self.log(values)
        self.phase(None)

    def _warn_of_late(self, step: int, values: Mapping[str, Any]) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s: %s of step %d came after step %d and is an event 'logged', no metric, as are "
                "all such; log the values of a step together, or those of another count (epochs) "
                "without a step of their own",
                self.clock.directory,
                ", ".join(map(repr, values)),
                step,
                self.clock.tick,
            )

    # --- the end --------------------------------------------------------------------------------

    def close(self, error: BaseException | None = None) -> None:
        """The training is over, by `error` if there is one; a tick in its midst is none."""
        if self._closed:
            return
        self._closed = True
        self._finalizer.detach()
        with self.time.held():
            if not self.running:
                self.write()
            self.phase(None)
        self.clock.close(error)

    def abandon(self) -> None:
        """The training is over, and nobody said so: by an error, where the end is ever told."""
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        if error is None and not self._is_logged:
            error = RunError("the training was left before its end")
        self.close(error)


_open: weakref.WeakValueDictionary[str, Steps] = weakref.WeakValueDictionary()


def _abandon_left(directory: str | os.PathLike[str]) -> None:
    """An exception that nobody told of has ended the training whose run this process goes on with.

    As in a notebook, where the callback of that training is still in a variable.
    """
    left = _open.get(os.path.realpath(directory))
    if left is not None:
        left.abandon()


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values without mappings among them: `{"m": {"a": 1}}` is `{"m/a": 1}`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{name}/{inner}": each for inner, each in flat(value).items()}
        else:
            found[name] = value
    return found


def plain(value: Any) -> Any:
    """`value` as JSON can hold it; what it cannot becomes text."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a NumPy scalar
        return plain(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return str(value)


def _last_tick(directory: str | os.PathLike[str]) -> int:
    ticks = open_run(directory).ticks()
    return int(ticks.sql("select coalesce(max(tick), 0) from ticks").fetchall()[0][0])
