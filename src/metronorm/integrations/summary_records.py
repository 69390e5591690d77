"""The records that the `SummaryWriter`s of one directory make together.

A run's attempt has one record for each tick, and one process writes it. Two writers of a directory
in one process (training and validation, say) are common, so they share an attempt:

| an attempt is | and | then |
| --- | --- | --- |
| not there | a writer is made, or logs after it was closed | it begins |
| there | a writer is made | they share it |
| there | the last writer is closed, or goes | it ends |
| there | the only writer, a new one, logs a step that is there | it ends, and another begins |

The last is what happens in a notebook: a writer that nobody closed is replaced by another.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from metronorm.clock import Clock, read_run_info
from metronorm.clock.metric_values import plain_number
from metronorm.errors import ConfigError
from metronorm.integrations.axes import LAST, time_of
from metronorm.store.run_directory import RUN_FILE, changes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metronorm.integrations.names import MetricNames

_log = logging.getLogger("metronorm")


class _Late(NamedTuple):
    name: str
    step: int
    value: float | int


class Records:
    """Takes scalars of all writers, a record for each step.

    Args:
        directory: of the run.
        names: of the metrics so far.
        config: of a new run.
        now: a monotonic clock in integer nanoseconds.

    Raises:
        RunError: another process writes the run, or the directory is not writable.
    """

    def __init__(
        self,
        directory: Path,
        names: MetricNames,
        config: dict[str, Any] | None,
        now: Callable[[], int],
    ) -> None:
        self.names = names
        self.lock = threading.RLock()
        self._writers: weakref.WeakSet[object] = weakref.WeakSet()
        self._time = now
        self._held: int | None = None
        self._offset = time.time_ns() - now()
        self._warned = self._closed = False
        self._error: BaseException | None = None
        self._begin_attempt(directory, config)

    def _begin_attempt(self, directory: Path, config: dict[str, Any] | None) -> None:
        self.clock = Clock(
            directory,
            config=config,
            resume=(directory / RUN_FILE).exists(),
            progress=False,
            stall=None,  # what is logged seldom does not stall
            now=self._now,
        ).open()
        self._step: int | None = None  # the largest so far
        self._begun = False
        self._ended: int | None = None
        self._moment = 0
        self._have_logged: weakref.WeakSet[object] = weakref.WeakSet()
        self._on_record: dict[str, int] = {}  # and which writer has put it there
        self._late: list[_Late] = []

    def _end_attempt(self, error: BaseException | None) -> None:
        self._end()
        self._tell_late({})
        self.clock.close(error)

    def _now(self) -> int:
        """The time, except while a record is made of what was logged a while ago."""
        return self._time() if self._held is None else self._held

    def add(self, writer: object, tag: str, value: Any, step: int, walltime: float | None) -> None:
        """Put a scalar on the record of its step, or keep it as a late one.

        Raises:
            ConfigError: `value` is not one number, or `walltime` no time.
        """
        with self.lock:
            name = self.names[tag]
            moment = self._moment_of(walltime)
            if self._is_restart(writer, step):
                self._end_attempt(None)
                self._begin_attempt(self.clock.directory, None)
            self._have_logged.add(writer)
            if self._step is None or step > self._step:
                self._end()
                self._begin(step, moment)
            elif step < self._step or not self._begun or self._is_others(name, writer):
                self._late.append(_Late(name, step, plain_number(name, value)))
                return
            self.clock.log(**{name: value})
            self._on_record[name] = id(writer)
            self._moment = max(self._moment, moment)

    def _is_others(self, name: str, writer: object) -> bool:
        """Whether another writer has put a scalar of this name on the record that is open."""
        return self._on_record.get(name, id(writer)) != id(writer)

    def _is_restart(self, writer: object, step: int) -> bool:
        """Whether a writer takes the place of one that was never closed, as in a notebook."""
        goes_back = self._step is not None and step <= self._step
        return goes_back and writer not in self._have_logged and self._living() == 1

    def event(self, name: str, /, **fields: Any) -> None:
        """Put something else that was logged on record."""
        with self.lock:
            self.clock.event(name, **fields)

    def end_record(self) -> None:
        """Write the record that is open."""
        with self.lock:
            self._end()

    def _moment_of(self, walltime: float | None) -> int:
        if walltime is None:
            return self._time()
        found = time_of(walltime)
        moment = LAST if found is None else found[0] - self._offset
        if not abs(moment) < LAST:
            raise ConfigError(
                "a walltime is seconds since 1970, as time.time() gives them", got=repr(walltime)
            )
        return moment

    def _begin(self, step: int, moment: int) -> None:
        self._held = moment if self._ended is None else self._ended
        self._moment = max(moment, self._held)
        self.clock.tick = step - 1
        self.clock.begin_tick()
        self._held = None
        self._step, self._begun = step, True
        self._on_record.clear()

    def _end(self) -> None:
        if not self._begun:
            return
        placed = {late.name: late for late in self._late if late.name not in self._on_record}
        self.clock.log(**{name: late.value for name, late in placed.items()})
        self._held = self._ended = self._moment
        self.clock.end_tick()
        self.clock.pause()
        self._held = None
        self._begun = False
        self._tell_late(placed)

    def _tell_late(self, placed: dict[str, _Late]) -> None:
        """Events of all late scalars; of several of a name only the last is on the record."""
        for late in self._late:
            is_placed = placed.get(late.name) is late
            self.clock.event(
                "late scalar",
                metric=late.name,
                step=late.step,
                placed=is_placed,
                value=late.value if isfinite(late.value) else str(late.value),
            )
            if not (is_placed or self._warned):
                self._warned = True
                _log.warning(
                    "%s: %r of step %d has no record of its own, for step %s is logged already: it "
                    "is an event 'late scalar' only, as others may be; log the scalars of a step "
                    "together, or give series that are logged one after the other a directory each",
                    self.clock.directory,
                    late.name,
                    late.step,
                    self._step,
                )
        self._late.clear()

    # --- writers --------------------------------------------------------------------------------

    def _living(self) -> int:
        return sum(1 for _ in self._writers)  # (its length counts one that is just going)

    def join(self, writer: object, config: dict[str, Any] | None) -> bool:
        """One more writer, which would give `config` to a run of its own; False if closed."""
        is_first = not self._living()
        self._writers.add(writer)
        if self._closed:
            return False
        changed = {}
        if config and not is_first:
            info = read_run_info(self.clock.directory)
            changed = changes(info, name=None, config=config)
        if changed:
            self.event("changed", **changed)
            _log.warning(
                "%s is being written with another config; %s keeps the first, an event `changed` "
                "has both",
                self.clock.directory,
                RUN_FILE,
            )
        return True

    def leave(self, writer: object, error: BaseException | None) -> None:
        """A writer is closed; with the last one the attempt ends."""
        with self.lock:
            self._error = self._error or error
            self._writers.discard(writer)
            if self._living():
                self._end()
            else:
                self.close(None)

    def close(self, error: BaseException | None) -> None:
        """End the attempt; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._end_attempt(self._error or error)

    def abandon(self) -> None:
        """A writer went that nobody closed, perhaps in the midst of what another one does."""
        if not self._living() and self.lock.acquire(blocking=False):
            try:
                self.close(_uncaught())
            finally:
                self.lock.release()


def _uncaught() -> BaseException | None:
    return None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)


_open: dict[str, Records] = {}  # by the real path of their directory
_opening = threading.RLock()


def join(
    writer: object,
    directory: Path,
    names: MetricNames,
    config: dict[str, Any] | None,
    now: Callable[[], int],
) -> Records:
    """The records of a directory: those that are being written in this process, or new ones.

    Raises:
        RunError: what `Records` raises.
    """
    path = os.path.realpath(directory)
    with _opening:
        records = _open.get(path)
        if records is None or not records.join(writer, config):
            records = _open[path] = Records(directory, names, config, now)
            records.join(writer, config)
        weakref.finalize(writer, records.abandon).atexit = False
        return records


def _close_all() -> None:
    for records in list(_open.values()):
        records.close(_uncaught())


def _forget_all() -> None:
    """In a child of `fork` nothing of its parent's is written, and no lock is anybody's."""
    global _opening
    _opening = threading.RLock()
    for records in _open.values():
        records.lock = threading.RLock()
    _open.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
