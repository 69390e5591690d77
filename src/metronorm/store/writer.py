"""The writer: a thread that carries lines from the rings to the tapes.

Whatever the disk does, the training thread only meets the ring. Lines that found no room in it are
dropped and counted; when the disk takes lines again, an event says how many and which ticks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import RunError
from metronorm.store.ring import Ring
from metronorm.store.sealing import begin_sealing
from metronorm.store.spawn import is_running
from metronorm.store.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PERIOD_SECONDS = 0.25
_HANG_SECONDS = 0.05  # a writer that is at the disk for longer is not waited for
PATIENCE_SECONDS = 5.0  # how long closing waits for a disk that does not answer
STRETCH_BYTES = 16 << 20  # a stretch of tape that is sealed
STRETCH_SECONDS = 3600.0
_SMALLEST_STRETCH_BYTES = 256 << 10

# bytes of the rings: twelve thousand usual ticks
CAPACITIES = {"ticks": 4 << 20, "events": 1 << 20, "resources": 256 << 10}


@dataclass(frozen=True)
class Loss:
    """Lines that were dropped: how many there are so far, the ticks since that was last told."""

    records: int
    first_tick: int
    last_tick: int
    error: str


class Channel:
    """One kind of lines: its ring, its tape, and what was lost between them."""

    def __init__(
        self, folder: Path, ring: Path | None, capacity: int, identity: str | None = None
    ) -> None:
        self.tape = Tape(folder, identity)
        self.ring = Ring(ring, folder, capacity)
        self.dropped = 0
        self.finished = False  # whether stretches are to be sealed
        self.begun = time.monotonic()
        self.drained = threading.Event()
        self._too_long: bytes | None = None
        self._loss: Loss | None = None
        self._closed = False
        self._lock = threading.Lock()  # never held at the disk

    def drain(self) -> None:
        """Put on the tape what is in the ring, and the line that is too long for it."""
        lines = self.ring.peek()
        if lines:
            self.ring.take(self.tape.append(*lines))
        line = self._too_long
        if line is not None and self.tape.append(line) == len(line):
            self._too_long = None
        self.drained.set()

    def put(self, line: bytes) -> bool:
        """Take a line, from any thread; False if there is no room.

        A line that is longer than the ring waits beside it, one at a time.
        """
        with self._lock:
            if self._closed:
                return False
            if len(line) <= self.ring.capacity:
                return self.ring.put(line)
            if self._too_long is not None:
                return False
            self._too_long = line
            return True

    def finish_stretch(self) -> None:
        """Let what is on the tape be sealed; if the disk refuses, later."""
        with contextlib.suppress(OSError, RunError):
            self.tape.rotate()
            self.begun = time.monotonic()
            self.finished = True

    def drop(self, tick: int) -> None:
        """Count a line that is lost."""
        error = self.tape.last_error
        why = (error and error.strerror) or "the disk does not answer"
        with self._lock:
            self.dropped += 1
            first = self._loss.first_tick if self._loss else tick
            self._loss = Loss(self.dropped, first, tick, why)

    def take_loss(self) -> Loss | None:
        """What was lost since this was asked, once the tape takes lines again."""
        if self.tape.last_error is not None:
            return None
        with self._lock:
            loss, self._loss = self._loss, None
        return loss

    def waiting(self) -> int:
        """How many lines the ring keeps; those that it cannot are lost with the process."""
        lines = b"".join(self.ring.peek()).count(b"\n")
        with self._lock:
            self.dropped += self._too_long is not None
            if not self.ring.shared:
                self.dropped += lines
                lines = 0
        return lines

    def close(self) -> None:
        """Take no more; what waits stays in the ring's shared file."""
        with self._lock:
            self._closed = True
            self.tape.close()
            self.ring.close(keep=self.ring.filled > 0)

    def is_long(self) -> bool:
        """Whether the stretch being written is to be finished."""
        size = self.tape.size
        old = time.monotonic() - self.begun > STRETCH_SECONDS
        return size >= STRETCH_BYTES or (old and size >= _SMALLEST_STRETCH_BYTES)


class Writer:
    """Takes lines of all kinds at once and writes them soon.

    Args:
        channels: by kind.
        on_return: told, in the writer's thread, of a kind whose tape takes lines again after some
            were dropped.
        on_turn: called, in the writer's thread, each time the rings were looked at.
    """

    def __init__(
        self,
        channels: dict[str, Channel],
        on_return: Callable[[str, Loss], None],
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.channels = channels
        self._on_return, self._on_turn = on_return, on_turn
        self._wake = threading.Event()
        self._closing = False
        self._at_disk_since: float | None = None
        self._stuck = False  # at a disk that does not answer
        self._flushing: threading.Event | None = None
        self._sealing: int | None = None
        self._thread = threading.Thread(target=self._run, name="metronorm-writer", daemon=True)
        self._thread.start()

    def overflow(self, channel: Channel, line: bytes, tick: int) -> None:
        """A line for which the ring has no room: waits if the disk answers, else it is dropped."""
        if threading.current_thread() is self._thread:
            channel.drain()
            if not channel.put(line):
                channel.drop(tick)
            return
        while channel.tape.last_error is None and not self._stuck:
            channel.drained.clear()
            if channel.put(line):
                self._wake.set()
                return
            self._wake.set()
            if not channel.drained.wait(_HANG_SECONDS):
                self._stuck = self._hangs()
        channel.drop(tick)

    def _hangs(self) -> bool:
        # a writer that waits for the processor is not one that waits for the disk
        since = self._at_disk_since
        long = since is not None and time.monotonic() - since > _HANG_SECONDS
        return long or not self._thread.is_alive()

    def _run(self) -> None:
        last = False
        while not last:
            self._wake.wait(PERIOD_SECONDS)
            self._wake.clear()
            flushing, self._flushing = self._flushing, None
            last = self._closing  # what was said before closing is written all the same
            for channel in self.channels.values():
                self._write(channel)
            self._on_turn()
            if flushing is not None:
                flushing.set()
            for kind, channel in self.channels.items():
                loss = channel.take_loss()
                if loss is not None:
                    self._on_return(kind, loss)
                    last = False  # that is to be written too
                    self._wake.set()

    def _write(self, channel: Channel) -> None:
        self._at_disk_since = time.monotonic()
        channel.drain()
        if channel.is_long():
            channel.finish_stretch()
        if channel.finished and not self._seals():
            channel.finished = False
            self._seal(channel)
        self._at_disk_since = None
        self._stuck = False

    def flush(self) -> bool:
        """Wait until what was said is on the tapes; False after `PATIENCE_SECONDS` without."""
        done = self._flushing = threading.Event()
        self._wake.set()
        # (not whether the rings are empty: other threads go on)
        return done.wait(PATIENCE_SECONDS) and not any(
            channel.tape.last_error for channel in self.channels.values()
        )

    def _seal(self, channel: Channel) -> None:
        with contextlib.suppress(OSError):  # then it is sealed when the clock closes
            self._sealing = begin_sealing(channel.tape.folder)

    def _seals(self) -> bool:
        if self._sealing is not None and not is_running(self._sealing):
            self._sealing = None  # its number may be another's by now
        return self._sealing is not None

    def is_writing(self) -> bool:
        """Whether the thread has not ended; after `close`: whether the disk does not answer."""
        return self._thread.is_alive()

    def close(self) -> int:
        """Write all there is; how many lines the disk did not take in `PATIENCE_SECONDS`.

        Those stay in the rings, for whoever reads the run next on this machine.
        """
        self._closing = True
        self._wake.set()
        self._thread.join(PATIENCE_SECONDS)
        left = 0
        for channel in self.channels.values():
            left += channel.waiting()
            if not self.is_writing():  # else that may yet return
                channel.close()
        return left
