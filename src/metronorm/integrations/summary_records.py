"""The records that all `SummaryWriter`s of one directory make together.

An attempt has one record for each tick, and one process writes it. Two writers of a directory in
one process are common, for training and validation, so they share an attempt:

| state | event | next state |
| --- | --- | --- |
| no attempt | a writer is made, or logs after it was closed | an attempt begins |
| attempt | another writer is made | they share the attempt |
| attempt | the last writer is closed or collected as garbage | the attempt ends |
| attempt | a new writer, now the only one, logs a step that exists | it ends, another begins |

The last case happens in a notebook, where a writer that was not closed is replaced by another.

Inside an attempt, a scalar meets the step of the open record, or the newest step:

| state | a scalar's step | next |
| --- | --- | --- |
| no open record | is larger than the newest step, or the first | a record begins for this step |
| open record | is larger | the record is written, another begins |
| open record | is the same, and no other writer logged the name | it is a metric of the record |
| any | is smaller, or the record is written, or the name is another writer's | it is late |

A late scalar is put on the record that is written next, unless this has one of the name.
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
    """Takes the scalars of all writers of a directory, and makes a record for each step.

    Args:
        directory: the run's directory.
        names: the names of the metrics so far.
        config: the config for a new run.
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
        self._held: int | None = None  # the time that the clock reads while a record is made
        self._offset = time.time_ns() - now()  # from the monotonic clock to nanoseconds since 1970
        self._has_warned = self._is_closed = False
        self._error: BaseException | None = None
        self._begin_attempt(directory, config)

    def _begin_attempt(self, directory: Path, config: dict[str, Any] | None) -> None:
        self.clock = Clock(
            directory,
            config=config,
            resume=(directory / RUN_FILE).exists(),
            progress=False,
            stall=None,  # a long time between two scalars is no stall
            now=self._now,
        ).open()
        self._step: int | None = None  # the largest so far
        self._is_open = False  # the record of this step
        self._end_ns: int | None = None  # when the record before ended
        self._last_ns = 0  # the time of the newest scalar of the open record
        self._have_logged: weakref.WeakSet[object] = weakref.WeakSet()
        self._writer_of: dict[str, int] = {}  # the writer's id, by metric of the open record
        self._late: list[_Late] = []

    def _end_attempt(self, error: BaseException | None) -> None:
        self._end()
        self._record_late({})
        self.clock.close(error)

    def _now(self) -> int:
        """Return the time; while a record is made, the time at which its scalars were logged."""
        return self._time() if self._held is None else self._held

    def add(self, writer: object, tag: str, value: Any, step: int, walltime: float | None) -> None:
        """Put a scalar on the record of its step, or keep it as a late one.

        Raises:
            ConfigError: `value` is not one number, or `walltime` is not a time.
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
            elif step < self._step or not self._is_open or self._is_others(name, writer):
                self._late.append(_Late(name, step, plain_number(name, value)))
                return
            self.clock.log(**{name: value})
            self._writer_of[name] = id(writer)
            self._last_ns = max(self._last_ns, moment)

    def _is_others(self, name: str, writer: object) -> bool:
        """Return whether another writer has put a scalar of this name on the open record."""
        return self._writer_of.get(name, id(writer)) != id(writer)

    def _is_restart(self, writer: object, step: int) -> bool:
        """Return whether a writer replaces one that was not closed, as in a notebook."""
        goes_back = self._step is not None and step <= self._step
        return goes_back and writer not in self._have_logged and self._living() == 1

    def event(self, name: str, /, **fields: Any) -> None:
        """Record something that is not a scalar."""
        with self.lock:
            self.clock.event(name, **fields)

    def end_record(self) -> None:
        """Write the open record."""
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
        self._held = moment if self._end_ns is None else self._end_ns
        self._last_ns = max(moment, self._held)
        self.clock.tick = step - 1
        self.clock.begin_tick()
        self._held = None
        self._step, self._is_open = step, True
        self._writer_of.clear()

    def _end(self) -> None:
        if not self._is_open:
            return
        placed = {late.name: late for late in self._late if late.name not in self._writer_of}
        self.clock.log(**{name: late.value for name, late in placed.items()})
        self._held = self._end_ns = self._last_ns
        self.clock.end_tick()
        self.clock.pause()
        self._held = None
        self._is_open = False
        self._record_late(placed)

    def _record_late(self, placed: dict[str, _Late]) -> None:
        """Record an event for every late scalar; `placed` has those that are on the record."""
        for late in self._late:
            is_placed = placed.get(late.name) is late
            self.clock.event(
                "late scalar",
                metric=late.name,
                step=late.step,
                placed=is_placed,
                value=late.value if isfinite(late.value) else str(late.value),
            )
            if not (is_placed or self._has_warned):
                self._has_warned = True
                _log.warning(
                    "%s: %r of step %d is only an event 'late scalar', because step %s is logged "
                    "already; so may others be; log the scalars of a step together, or give each "
                    "series its own directory if one is logged after the other",
                    self.clock.directory,
                    late.name,
                    late.step,
                    self._step,
                )
        self._late.clear()

    # --- writers --------------------------------------------------------------------------------

    def _living(self) -> int:
        return sum(1 for _ in self._writers)  # len() also counts one that is being collected

    def join(self, writer: object, config: dict[str, Any] | None) -> bool:
        """Take one more writer, with the config it was made with; return False if closed."""
        is_first = not self._living()
        self._writers.add(writer)
        if self._is_closed:
            return False
        changed = {}
        if config and not is_first:
            info = read_run_info(self.clock.directory)
            changed = changes(info, name=None, config=config)
        if changed:
            self.event("changed", **changed)
            _log.warning(
                "%s is being written with another config; %s keeps the first one, and an event "
                "`changed` has both",
                self.clock.directory,
                RUN_FILE,
            )
        return True

    def leave(self, writer: object, error: BaseException | None) -> None:
        """Release a writer that is closed; end the attempt if it was the last one."""
        with self.lock:
            self._error = self._error or error
            self._writers.discard(writer)
            if self._living():
                self._end()
            else:
                self.close(None)

    def close(self, error: BaseException | None) -> None:
        """End the attempt; closing twice does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._end_attempt(self._error or error)

    def abandon(self) -> None:
        """Release a writer that was collected as garbage, perhaps while another one is logging."""
        if not self._living() and self.lock.acquire(blocking=False):
            try:
                self.close(_uncaught())
            finally:
                self.lock.release()


def _uncaught() -> BaseException | None:
    return None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)


_open: dict[str, Records] = {}  # by the real path of the directory
_opening = threading.RLock()


def join(
    writer: object,
    directory: Path,
    names: MetricNames,
    config: dict[str, Any] | None,
    now: Callable[[], int],
) -> Records:
    """Return the records of a directory: those that this process is writing, or new ones.

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


def _detach_after_fork() -> None:
    """Release everything in a child of `fork`: the parent writes its runs, and holds its locks."""
    global _opening
    _opening = threading.RLock()
    for records in _open.values():
        records.lock = threading.RLock()
    _open.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_detach_after_fork)
