"""The recorder: everything between the clock and the disk of one attempt."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import platform
from typing import TYPE_CHECKING, Any

from metronorm.clock.background_threads import Watcher
from metronorm.errors import MetronormError
from metronorm.store.ring import ring_path
from metronorm.store.run_config import to_json
from metronorm.store.run_directory import tape_folder, versions
from metronorm.store.schema import LARGEST
from metronorm.store.sealing import finish_tape, recover_all, seal_parts, start_sealing
from metronorm.store.tape import encode
from metronorm.store.writer import CAPACITIES, Channel, Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from metronorm.clock.stall import StallWatch
    from metronorm.store.owner import Ownership
    from metronorm.store.writer import Loss

_SEALED_HERE_BYTES = 1 << 20  # what takes a tenth of a second

_log = logging.getLogger("metronorm")


class Recorder:
    """Takes lines of ticks, events and samples of the machine; never waits for a disk.

    Args:
        directory: of the run.
        identity: of the run.
        attempt: that this process claimed.
        rank: of this process.
        owner: holds the rank for this process; released by `close`.
        tick: the number of the tick that runs.
        running: whether one does.
        time_ns: nanoseconds since 1970.
        stall: when to call it a stall; None: never.

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
        recover_all()
        self._directory, self._owner = directory, owner
        self._tick, self._time_ns = tick, time_ns
        self._forgotten = False
        self.latest_resources: dict[str, float] = {}
        self._channels = {}
        for kind, capacity in CAPACITIES.items():
            folder = tape_folder(directory, kind, attempt, rank)
            folder.mkdir(parents=True, exist_ok=True)
            path = ring_path(identity, kind, attempt, rank)
            self._channels[kind] = Channel(folder, path, capacity, identity)
        self.ticks = self._channels["ticks"]
        self._writer = Writer(self._channels, self._on_return, owner.touch)
        self.event("start", process=os.getpid(), host=platform.node(), versions=versions())
        self._watcher = Watcher(tick, running, self._sample, self.event, stall)

    @property
    def dropped(self) -> int:
        """Lines that are lost."""
        return sum(channel.dropped for channel in self._channels.values())

    def overflow(self, line: bytes, tick: int) -> None:
        """A tick's line that the ring has no room for."""
        self._writer.put_or_drop(self.ticks, line, tick)

    def event(self, name: str, /, **fields: Any) -> dict[str, Any]:
        """Something that happened; the record that was made of it."""
        return self.event_of(self._tick(), self._time_ns(), name, fields)

    def event_of(
        self, tick: int, time_ns: int, name: str, fields: dict[str, Any]
    ) -> dict[str, Any]:
        """Something that happened in another tick, or at another time, than now."""
        return self._event(tick, time_ns, name, fields, put=not self._forgotten)

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
        # text that is no Unicode, a key that is no text, what holds itself, what makes no text
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
        if not self._forgotten:
            self._put("resources", encode(record))

    def _put(self, kind: str, line: bytes) -> None:
        channel = self._channels[kind]
        if not channel.put(line):
            self._writer.put_or_drop(channel, line, self._tick())

    def _on_return(self, kind: str, loss: Loss) -> None:
        fields = {"kind": kind, **dataclasses.asdict(loss)}
        self._event(self._tick(), self._time_ns(), "dropped", fields, put=True)

    def flush(self) -> bool:
        """Wait until all that was said is on the tapes; False if the disk does not take it."""
        return self._forgotten or self._writer.flush()

    def forget(self) -> None:
        """For the child of a fork: this attempt is its parent's."""
        self._forgotten = True
        for channel in self._channels.values():
            channel.ring.detach_after_fork()
            channel.tape.close()
        self._owner.detach_after_fork()

    def close(self) -> None:
        """Write what is on the way, seal it, and tell what was lost; waits seconds at most."""
        try:
            self._close()
        finally:
            if not self._writer.is_writing():  # at a disk that does not answer: left in peace
                self._owner.release()

    def _close(self) -> None:
        self._watcher.close()
        self._forgotten = True
        left = self._writer.close()
        errors = [channel.tape.last_error for channel in self._channels.values()]
        why = next((error.strerror for error in errors if error), "the disk does not answer")
        if self.dropped:
            _log.warning(
                "%d records could not be written to %s (%s); training went on without them",
                self.dropped,
                self._directory,
                why,
            )
        if left:
            _log.warning(
                "%d records are not in %s yet (%s); metronorm seal writes them there as long as "
                "this machine runs",
                left,
                self._directory,
                why,
            )
        if left or self._writer.is_writing():
            return
        self._seal()

    def _seal(self) -> None:
        """Here if that is soon done, else in a process that may outlive this one."""
        size = 0
        folders = {kind: channel.tape.folder for kind, channel in self._channels.items()}
        for folder in folders.values():
            with _trying():
                size += finish_tape(folder)
        if size > _SEALED_HERE_BYTES:
            with _trying():
                start_sealing(*folders.values())
                return
        for kind, folder in folders.items():
            with _trying():
                seal_parts(folder, kind)


def _trying() -> AbstractContextManager[None]:
    return contextlib.suppress(OSError, MetronormError)  # sealing can be done at any time


def _text(fields: dict[str, Any]) -> str:
    try:
        return repr(fields)
    except Exception:  # by code of others
        return ", ".join(fields)


def _unicode(text: str) -> str:
    return text.encode(errors="replace").decode()


def _as_column(number: int) -> int:
    """A number as the column of an integer can hold it: one beyond becomes the last."""
    return max(-LARGEST, min(number, LARGEST))
