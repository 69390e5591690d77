"""The writer: a thread that carries lines from the rings to the tapes.

    any thread → Channel.put → ring → writer's thread → tape → a stretch → sealing's process

The training thread writes into the ring only, so no disk can stop it. What happens to a line:

| the ring | the disk | the line |
| --- | --- | --- |
| has room | any | waits in the ring |
| has no room | takes lines | its thread waits until the writer has made room |
| has no room | refuses lines, or hangs | is dropped and counted |
| is shorter than the line | any | waits beside the ring; a second one: as if there were no room |

The disk, as the writer sees it:

| state | event | next | because |
| --- | --- | --- | --- |
| takes lines | an append raises OSError | refuses | lines stay in the ring until it takes them |
| takes lines | an append takes `_HANG_SECONDS` | hangs | no thread waits for it any more |
| refuses | an append succeeds, at any turn | takes lines | the writer tries at every turn |
| hangs | the append returns | takes lines or refuses | |

The first time that the disk takes lines again, `on_recovery` gets the `Loss`: how many lines were
dropped and in which ticks.

The thread:

| state | event | next |
| --- | --- | --- |
| waits | `PERIOD_SECONDS` are over, or `put_or_drop`, `flush` or `close` wakes it | a turn |
| a turn | every ring has been written, nothing is closing | waits |
| a turn | every ring has been written, closing, a loss was reported | one more turn |
| a turn | every ring has been written, closing, no loss was reported | ends |
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import RunError
from metronorm.store.ring import Ring
from metronorm.store.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PERIOD_SECONDS = 0.25
_HANG_SECONDS = 0.05  # an append that takes longer is not waited for
PATIENCE_SECONDS = 5.0  # how long closing waits for a disk that does not answer
STRETCH_BYTES = 16 << 20  # a stretch of tape is finished, and sealed, at this size
STRETCH_SECONDS = 3600.0  # or at this age
_SMALLEST_STRETCH_BYTES = 256 << 10  # if it is not smaller than this

# bytes of the rings: 12,000 ticks with a few metrics
CAPACITIES = {"ticks": 4 << 20, "events": 1 << 20, "resources": 256 << 10}


@dataclass(frozen=True)
class Loss:
    """Dropped lines: `records` are all of the channel so far, the ticks those of the last gap."""

    records: int
    first_tick: int
    last_tick: int
    error: str


class Channel:
    """The way of one kind of lines: its ring, its tape, and a count of lost lines.

    Args:
        folder: the folder of the tape.
        ring: the shared file of the ring; None: lines wait in memory of the process only.
        capacity: bytes of the ring.
        identity: the `id` of the run; see `Tape`.

    Raises:
        OSError: the folder is not writable.
        RunError: another process writes this tape.
    """

    def __init__(
        self, folder: Path, ring: Path | None, capacity: int, identity: str | None = None
    ) -> None:
        self.tape = Tape(folder, identity)
        self.ring = Ring(ring, folder, capacity)
        self.dropped = 0
        self.has_stretch_to_seal = False
        self.stretch_started = time.monotonic()
        self.drained = threading.Event()
        self._long_line: bytes | None = None  # the one that waits beside the ring
        self._loss: Loss | None = None  # not reported yet
        self._closed = False
        self._lock = threading.Lock()  # never held while the disk is used

    def put(self, line: bytes) -> bool:
        """Take a line, from any thread; False if there is no room.

        A line that is longer than the ring waits beside it; one such line can wait at a time.
        """
        with self._lock:
            if self._closed:
                return False
            if len(line) <= self.ring.capacity:
                return self.ring.put(line)
            if self._long_line is not None:
                return False
            self._long_line = line
            return True

    def drain(self) -> None:
        """Write all lines that wait to the tape; lines that the disk refuses keep waiting."""
        lines = self.ring.peek()
        if lines:
            self.ring.take(self.tape.append(*lines))
        line = self._long_line
        if line is not None and self.tape.append(line) == len(line):
            self._long_line = None
        self.drained.set()

    def is_stretch_long(self) -> bool:
        """Whether the stretch that is being written should be finished."""
        size = self.tape.size
        is_old = time.monotonic() - self.stretch_started > STRETCH_SECONDS
        return size >= STRETCH_BYTES or (is_old and size >= _SMALLEST_STRETCH_BYTES)

    def finish_stretch(self) -> None:
        """Finish the stretch, so that it can be sealed; if the disk refuses, nothing changes."""
        with contextlib.suppress(OSError, RunError):
            self.tape.rotate()
            self.stretch_started = time.monotonic()
            self.has_stretch_to_seal = True

    def drop(self, tick: int) -> None:
        """Count a lost line of this tick."""
        error = self.tape.last_error
        reason = (error and error.strerror) or "the disk does not answer"
        with self._lock:
            self.dropped += 1
            first = self._loss.first_tick if self._loss else tick
            self._loss = Loss(self.dropped, first, tick, reason)

    def take_loss(self) -> Loss | None:
        """What was lost since the last call; None while the tape refuses lines, or if nothing."""
        if self.tape.last_error is not None:
            return None
        with self._lock:
            loss, self._loss = self._loss, None
        return loss

    def count_left(self) -> int:
        """How many lines stay in the ring's shared file; lines elsewhere are counted as dropped."""
        lines = b"".join(self.ring.peek()).count(b"\n")
        with self._lock:
            self.dropped += self._long_line is not None
            if not self.ring.shared:
                self.dropped += lines
                lines = 0
        return lines

    def close(self) -> None:
        """Take no more lines; those that wait stay in the ring's shared file."""
        with self._lock:
            self._closed = True
            self.tape.close()
            self.ring.close(keep=self.ring.filled > 0)


class Writer:
    """Writes the lines of all channels, a quarter of a second after they came at most.

    The thread starts at once.

    Args:
        channels: the channels by kind.
        on_recovery: called in the writer's thread with a kind and its loss, when the tape takes
            lines again after some were dropped.
        on_turn: called in the writer's thread after each turn.
    """

    def __init__(
        self,
        channels: dict[str, Channel],
        on_recovery: Callable[[str, Loss], None],
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self.channels = channels
        self._on_recovery, self._on_turn = on_recovery, on_turn
        self._wake = threading.Event()
        self._closing = False
        self._disk_since: float | None = None  # since when the thread uses the disk
        self._disk_hangs = False
        self._flushing: threading.Event | None = None
        self._sealing: int | None = None  # the process that seals
        self._thread = threading.Thread(target=self._run, name="metronorm-writer", daemon=True)
        self._thread.start()

    def put_or_drop(self, channel: Channel, line: bytes, tick: int) -> None:
        """Wait for room for a line that did not fit; drop it if the disk refuses or hangs.

        Args:
            channel: the channel with the full ring.
            line: the line.
            tick: the tick of the line, to report it if it is lost.
        """
        if threading.current_thread() is self._thread:  # it would wait for itself
            channel.drain()
            if not channel.put(line):
                channel.drop(tick)
            return
        while channel.tape.last_error is None and not self._disk_hangs:
            channel.drained.clear()
            if channel.put(line):
                self._wake.set()
                return
            self._wake.set()
            if not channel.drained.wait(_HANG_SECONDS):
                self._disk_hangs = self._is_hanging()
        channel.drop(tick)

    def _is_hanging(self) -> bool:
        # a thread that waits for a CPU, not for the disk, has not begun to use the disk
        since = self._disk_since
        too_long = since is not None and time.monotonic() - since > _HANG_SECONDS
        return too_long or not self._thread.is_alive()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait(PERIOD_SECONDS)
            self._wake.clear()
            flushing, self._flushing = self._flushing, None
            is_last = self._closing  # read before writing: lines from before `close` are written
            for channel in self.channels.values():
                self._write(channel)
            self._on_turn()
            if flushing is not None:
                flushing.set()
            for kind, channel in self.channels.items():
                loss = channel.take_loss()
                if loss is not None:
                    self._on_recovery(kind, loss)
                    is_last = False  # the line that reports the loss needs one more turn
                    self._wake.set()

    def _write(self, channel: Channel) -> None:
        self._disk_since = time.monotonic()
        channel.drain()
        if channel.is_stretch_long():
            channel.finish_stretch()
        if channel.has_stretch_to_seal and not self._is_sealing():
            channel.has_stretch_to_seal = False
            self._seal(channel)
        self._disk_since = None
        self._disk_hangs = False

    def flush(self) -> bool:
        """Wait until all lines that were put are on the tapes.

        Returns:
            False if the disk refuses them, or has not taken them after `PATIENCE_SECONDS`.
        """
        done = self._flushing = threading.Event()
        self._wake.set()
        # (empty rings are no sign: other threads put lines meanwhile)
        return done.wait(PATIENCE_SECONDS) and not any(
            channel.tape.last_error for channel in self.channels.values()
        )

    # Sealing is loaded when the clock opens and not with this module, because `import
    # metronorm.clock` must be quick; not in this thread, because its disk may hang then.

    def _seal(self, channel: Channel) -> None:
        from metronorm.store.sealing import start_sealing

        with contextlib.suppress(OSError):  # then the stretch is sealed when the clock closes
            self._sealing = start_sealing(channel.tape.folder)

    def _is_sealing(self) -> bool:
        from metronorm.store.spawn import is_running

        if self._sealing is not None and not is_running(self._sealing):
            self._sealing = None  # another process may get this number
        return self._sealing is not None

    def is_writing(self) -> bool:
        """Whether the thread is alive; after `close` this means that the disk does not answer."""
        return self._thread.is_alive()

    def close(self) -> int:
        """Write all lines, and end the thread; waits `PATIENCE_SECONDS` at most.

        Returns:
            How many lines the disk did not take. They stay in the rings' shared files, for the next
            reader on this machine.
        """
        self._closing = True
        self._wake.set()
        self._thread.join(PATIENCE_SECONDS)
        left = 0
        for channel in self.channels.values():
            left += channel.count_left()
            if not self.is_writing():  # a thread that is still at the disk may use the channel
                channel.close()
        return left
