"""The writer: a thread that carries lines from the rings to the tapes.

Whatever the disk does, the training thread only meets the ring. Lines that found no room in it are
dropped and counted; when the disk takes lines again, an event says how many and which ticks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from metronorm.clock.ring import Ring
from metronorm.clock.spawn import is_running, spawn
from metronorm.clock.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PERIOD_SECONDS = 0.25
_HANG_SECONDS = 0.05  # a write that takes longer is not waited for
PATIENCE_SECONDS = 5.0  # how long closing waits for a disk that does not answer
STRETCH_BYTES = 8 << 20  # a stretch of tape that is sealed
STRETCH_SECONDS = 3600.0
_SMALLEST_STRETCH_BYTES = 256 << 10

CAPACITIES = {"ticks": 4 << 20, "events": 1 << 20, "resources": 256 << 10}


class Channel:
    """One kind of lines: its ring, its tape, and what was lost between them."""

    def __init__(self, folder: Path, ring: Path | None, capacity: int) -> None:
        self.tape = Tape(folder)
        self.ring = Ring(ring, folder, capacity)
        self.dropped = 0
        self.first_dropped: int | None = None
        self.last_dropped = 0
        self.begun = time.monotonic()
        self.taking = threading.Lock()
        self.stuck = False  # inside a write that does not return

    def drain(self) -> None:
        """Put on the tape what is in the ring."""
        lines = self.ring.peek()
        if lines:
            self.ring.take(self.tape.append(*lines))

    def put(self, line: bytes) -> bool:
        """Take a line after the others: into the ring, or on the tape if it is too long for it."""
        if len(line) > self.ring.capacity:
            return self.tape.append(line) == len(line)
        return self.ring.put(line)

    def finish_stretch(self) -> bool:
        """Let what is on the tape be sealed; False if the disk refuses: later, then."""
        try:
            self.tape.rotate()
        except OSError:
            return False
        self.begun = time.monotonic()
        return True

    def drop(self, tick: int) -> None:
        """Count a line that is lost."""
        self.dropped += 1
        if self.first_dropped is None:
            self.first_dropped = tick
        self.last_dropped = tick

    def is_long(self) -> bool:
        """Whether the stretch being written is to be finished."""
        size = self.tape.size
        old = time.monotonic() - self.begun > STRETCH_SECONDS
        return size >= STRETCH_BYTES or (old and size >= _SMALLEST_STRETCH_BYTES)


class Writer:
    """Takes lines of all kinds at once and writes them soon.

    Args:
        channels: by kind.
        on_return: told, in the writer's thread, of a channel whose tape takes lines again after
            some were dropped.
    """

    def __init__(self, channels: dict[str, Channel], on_return: Callable[[Channel], None]) -> None:
        self.channels = channels
        self._on_return = on_return
        self._wake = threading.Event()
        self._closing = False
        self._sealing: int | None = None
        self._thread = threading.Thread(target=self._run, name="metronorm-writer", daemon=True)
        self._thread.start()

    def overflow(self, channel: Channel, line: bytes, tick: int) -> None:
        """A line for which the ring has no room: helped on if the disk answers, else dropped."""
        self._wake.set()
        if channel.tape.last_error is None and not channel.stuck:
            # a writer that waits for the processor is not one that waits for the disk
            if channel.taking.acquire(timeout=_HANG_SECONDS):
                try:
                    channel.drain()
                    if channel.put(line):
                        return
                finally:
                    channel.taking.release()
            else:
                channel.stuck = True
        channel.drop(tick)

    def _run(self) -> None:
        last = False
        while not last:
            self._wake.wait(PERIOD_SECONDS)
            self._wake.clear()
            last = self._closing  # what was said before closing is written all the same
            for channel in self.channels.values():
                with channel.taking:
                    channel.drain()
                    finished = channel.is_long() and not self._seals() and channel.finish_stretch()
                if finished:
                    self._seal(channel)
                channel.stuck = False
                if channel.first_dropped is not None and channel.tape.last_error is None:
                    self._on_return(channel)
                    channel.first_dropped = None

    def _seal(self, channel: Channel) -> None:
        # in a process of its own: what seals takes time and memory
        with contextlib.suppress(OSError):  # then it is sealed when the clock closes
            self._sealing = spawn(
                sys.executable, "-m", "metronorm.clock.seal", str(channel.tape.folder)
            )

    def _seals(self) -> bool:
        return self._sealing is not None and is_running(self._sealing)

    def close(self) -> int:
        """Write all there is; how many lines the disk did not take in `PATIENCE_SECONDS`.

        Those stay in the rings, for whoever reads the run next on this machine.
        """
        self._closing = True
        self._wake.set()
        self._thread.join(PATIENCE_SECONDS)
        left = 0
        for channel in self.channels.values():
            waiting = b"".join(channel.ring.peek()).count(b"\n")
            left += waiting
            if not self._thread.is_alive():  # else it is inside a write that may yet return
                channel.tape.close()
                channel.ring.close(keep=waiting > 0)
        if self._sealing is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._sealing, 0)
        return left
