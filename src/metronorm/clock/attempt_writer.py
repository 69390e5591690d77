"""The recorder: everything between the clock and the disk, for one rank of one attempt."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import platform
from typing import TYPE_CHECKING, Any

from metronorm.clock.background_threads import Watcher
from metronorm.clock.sample_writer import SampleWriter
from metronorm.errors import MetronormError
from metronorm.store.ring import ring_path
from metronorm.store.run_config import to_json
from metronorm.store.run_directory import tape_folder, versions
from metronorm.store.schema import LARGEST_INTEGER
from metronorm.store.tape import encode
from metronorm.store.writer import CAPACITIES, Channel, Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from metronorm.clock.stall import StallWatch
    from metronorm.store.owner import Ownership
    from metronorm.store.writer import Loss

_SEALED_HERE_BYTES = 1 << 20  # sealing this takes a tenth of a second

_log = logging.getLogger("metronorm")


class Recorder:
    """Takes lines of ticks, events and samples of the machine; never waits for the disk.

    It also has the `SampleWriter`, which keeps what the run leaves to look at.

    For each kind of lines there is a channel: a ring in shared memory, and the tape on the disk.
    Lines of ticks come from the training thread, which puts them into the ring `ticks.ring`
    itself. Events come from any thread, samples from the thread of the `Watcher`.

    Args:
        directory: the run's directory.
        identity: the id in `run.json`.
        attempt: the number of this process's attempt.
        rank: this process's rank.
        owner: keeps other processes from writing this rank; `close` releases it.
        tick: returns the number of the running tick.
        running: returns whether ticks are expected: false between loops.
        time_ns: returns nanoseconds since 1970.
        stall: when missing ticks are a stall; None: never.

    Raises:
        OSError: the directory is not writable.
    """

    def __init__(
        self,
        directory: Path,
        *,
        identity: str,
        attempt: int,
        rank: int,
        owner: Ownership,
        tick: Callable[[], int],
        running: Callable[[], bool],
        time_ns: Callable[[], int],
        stall: StallWatch | None,
    ) -> None:
        from metronorm.store import sealing  # here, as `import metronorm.clock` must be quick

        sealing.recover_all()
        self._directory, self._owner = directory, owner
        self._tick, self._time_ns = tick, time_ns
        self._closed = False
        self.latest_resources: dict[str, float] = {}
        self._channels = {}
        for kind, capacity in CAPACITIES.items():
            folder = tape_folder(directory, kind, attempt, rank)
            folder.mkdir(parents=True, exist_ok=True)
            path = ring_path(identity, kind, attempt, rank)
            self._channels[kind] = Channel(folder, path, capacity, identity)
        self.ticks = self._channels["ticks"]
        self._writer = Writer(self._channels, self._report_loss, owner.touch)
        self._samples = SampleWriter(
            directory, identity, attempt=attempt, rank=rank, event=self.event_of
        )
        self.event("start", process=os.getpid(), host=platform.node(), versions=versions())
        self._watcher = Watcher(tick, running, self._sample, self.event, stall)

    @property
    def dropped(self) -> int:
        """How many lines and samples are lost."""
        return self._dropped_lines + self._samples.dropped

    @property
    def _dropped_lines(self) -> int:
        return sum(channel.dropped for channel in self._channels.values())

    def overflow(self, line: bytes, tick: int) -> None:
        """Take the line of a tick for which the ring has no room, or drop and count it."""
        self._writer.put_or_drop(self.ticks, line, tick)

    def event(self, name: str, /, **fields: Any) -> dict[str, Any]:
        """Record an event of the running tick, from any thread; returns its record."""
        return self.event_of(self._tick(), self._time_ns(), name, fields)

    def event_of(
        self, tick: int, time_ns: int, name: str, fields: dict[str, Any]
    ) -> dict[str, Any]:
        """Record an event of any tick and time; returns its record.

        Args:
            tick: the number of the tick.
            time_ns: nanoseconds since 1970.
            name: the event's name.
            fields: its fields; values that JSON does not have become text.
        """
        return self._event(tick, time_ns, name, fields, put=not self._closed)

    def _event(
        self, tick: int, time_ns: int, name: str, fields: dict[str, Any], *, put: bool
    ) -> dict[str, Any]:
        record = {
            "event": name,
            "tick": _as_column(tick),
            "time_ns": _as_column(time_ns),
            "fields": fields,
        }
        try:
            record["fields"], _ = to_json(fields, other=str)  # JSON has no NaN
            line = encode(record)
        # invalid Unicode, a key that is no text, a list that holds itself, an object without a text
        except Exception:
            record["fields"] = {"text": _unicode(_text(fields))}
            record["event"] = _unicode(name)
            line = encode(record)
        if put:
            self._put("events", line)
        return record

    def _sample(self, values: dict[str, float]) -> None:
        self.latest_resources = values
        record = {
            "tick": _as_column(self._tick()),
            "time_ns": _as_column(self._time_ns()),
            "values": {name: value for name, value in values.items() if math.isfinite(value)},
        }
        if not self._closed:
            self._put("resources", encode(record))

    def _put(self, kind: str, line: bytes) -> None:
        channel = self._channels[kind]
        if not channel.put(line):
            self._writer.put_or_drop(channel, line, self._tick())

    def _report_loss(self, kind: str, loss: Loss) -> None:
        fields = {"kind": kind, **dataclasses.asdict(loss)}
        self._event(self._tick(), self._time_ns(), "dropped", fields, put=True)

    def sample(self, name: str, value: Any, rate: int | None) -> None:
        """Keep a sample of the running tick, from any thread; see `Clock.sample`."""
        self._samples.take(name, value, rate, tick=self._tick(), time_ns=self._time_ns())

    def close_samples(self) -> None:
        """Write all samples that wait; later ones are dropped."""
        self._samples.close()

    def flush(self) -> bool:
        """Wait until all lines are on the tapes; False if the disk does not take them."""
        return self._closed or self._writer.flush()

    def detach_after_fork(self) -> None:
        """Write nothing more, in a child of `fork`: the attempt belongs to the parent process."""
        self._closed = True
        for channel in self._channels.values():
            channel.ring.detach_after_fork()
            channel.tape.close()
        self._owner.detach_after_fork()

    def close(self) -> None:
        """Write the last lines, seal the tapes, and warn of lost lines; waits seconds at most."""
        try:
            self._close()
        finally:
            # a writer that still waits for the disk may write later: then nobody else may
            if not self._writer.is_writing():
                self._owner.release()

    def _close(self) -> None:
        self._watcher.close()
        self._closed = True
        left = self._writer.close()
        errors = [channel.tape.last_error for channel in self._channels.values()]
        reason = next((error.strerror for error in errors if error), "the disk does not answer")
        if self._dropped_lines:
            _log.warning(
                "%d records could not be written to %s (%s); training went on without them",
                self._dropped_lines,
                self._directory,
                reason,
            )
        if left:
            _log.warning(
                "%d records are not in %s yet (%s); metronorm seal writes them there as long as "
                "this machine runs",
                left,
                self._directory,
                reason,
            )
        if left or self._writer.is_writing():
            return
        self._seal()

    def _seal(self) -> None:
        """Seal small tapes here, large ones in a process that may outlive this one."""
        from metronorm.store import sealing

        size = 0
        folders = {kind: channel.tape.folder for kind, channel in self._channels.items()}
        for folder in folders.values():
            with _suppress_failures():
                size += sealing.finish_tape(folder)
        if size > _SEALED_HERE_BYTES:
            with _suppress_failures():
                sealing.start_sealing(*folders.values())
                return
        for kind, folder in folders.items():
            with _suppress_failures():
                sealing.seal_parts(folder, kind)


def _suppress_failures() -> AbstractContextManager[None]:
    return contextlib.suppress(OSError, MetronormError)  # the tapes can be sealed at any time


def _text(fields: dict[str, Any]) -> str:
    try:
        return repr(fields)
    except Exception:  # foreign code makes the text
        return ", ".join(fields)


def _unicode(text: str) -> str:
    return text.encode(errors="replace").decode()


def _as_column(number: int) -> int:
    """The nearest number that a column of integers can hold."""
    return max(-LARGEST_INTEGER, min(number, LARGEST_INTEGER))
