"""The writer of samples: a thread that makes files of what a run leaves to look at.

    any thread → SampleWriter.take (a copy) → waits in memory → the thread → a file → its event

What happens to a sample:

| | the sample |
| --- | --- |
| it fits | its file appears by a rename; then an event `sample` names it |
| a picture is too large; too many samples wait; the run has as many as it keeps | is dropped |
| the disk refuses its file, or it cannot be made a file | is dropped |
| the clock closes, and the disk does not answer | is dropped |

Every dropped sample is counted, and the first one of each reason is a warning. An event `samples
dropped` has their number whenever it is a power of two, and at the end: they cannot flood the
record. The thread starts with the first sample.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metronorm.clock.sample_values import Taken, TooLargeError, take
from metronorm.errors import ConfigError, RunError
from metronorm.files import file_aside, remove_leftovers
from metronorm.store.run_directory import read_run_info
from metronorm.store.samples import SUFFIXES, file_stem, sample_folder, sample_folders
from metronorm.store.writer import PATIENCE_SECONDS, PERIOD_SECONDS
from metronorm.text import size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path, PurePosixPath

MOST_SAMPLES = 10_000  # files of a rank, of all attempts of its run
MOST_BYTES = 512 << 20  # of these files
MOST_WAITING_BYTES = 256 << 20  # of memory

_WARNINGS = {
    "left_out": "was cut: {:,} characters, frames or rows are left out",
    "outside": "has {:,} values that are NaN or out of range: NaN became 0, others the nearest "
    "that is in range",
}

_log = logging.getLogger("metronorm")


@dataclass(frozen=True)
class _Waiting:
    name: str
    tick: int
    time_ns: int
    taken: Taken

    @property
    def held_bytes(self) -> int:
        return 1024 + self.taken.held_bytes


class SampleWriter:
    """Takes samples from any thread, and writes them on a thread of its own.

    Args:
        directory: the run's directory.
        identity: the `id` of the run: nothing is written into another run in its place.
        attempt: the number of this process's attempt.
        rank: this process's rank.
        event: records an event: its tick, nanoseconds since 1970, name and fields.
    """

    def __init__(
        self,
        directory: Path,
        identity: str,
        *,
        attempt: int,
        rank: int,
        event: Callable[[int, int, str, dict[str, Any]], object],
    ) -> None:
        self._directory, self._identity = directory, identity
        self._attempt, self._rank, self._event = attempt, rank, event
        self.dropped = 0
        self._warned: set[str] = set()
        self._last_drop: tuple[int, int, str, dict[str, Any]] | None = None  # not recorded yet
        self._waiting: deque[_Waiting] = deque()  # the first one is being written
        self._waiting_bytes = 0
        self._closing = False
        self._changed = threading.Condition()  # never held while the disk is used
        self._thread: threading.Thread | None = None
        self._files = _Files()

    # --- on any thread --------------------------------------------------------------------------

    def take(self, name: Any, value: Any, rate: Any, *, tick: int, time_ns: int) -> None:
        """Copy a sample, which is written later; for the first three see `Clock.sample`.

        Args:
            name: the name of the sample.
            value: the sample.
            rate: frames of audio a second, or None.
            tick: the number of the running tick.
            time_ns: nanoseconds since 1970.

        Raises:
            ConfigError: the value cannot be a sample, or the name is no text.
        """
        if not isinstance(name, str):
            raise ConfigError("the name of a sample is text", got=f"a {type(name).__name__}")
        name = name.encode(errors="replace").decode()  # JSON has no lone surrogates
        try:
            reason = self._put(_Waiting(name, tick, time_ns, take(value, rate)))
        except TooLargeError as error:
            reason = str(error)
        if reason is not None:
            self._drop(name, tick, time_ns, reason)

    def _put(self, sample: _Waiting) -> str | None:
        """Let a sample wait for the thread; a reason why it cannot, or None."""
        held = sample.held_bytes
        with self._changed:
            if self._closing:
                return "the clock closes"
            if self._waiting_bytes + held > MOST_WAITING_BYTES:
                return f"{size(MOST_WAITING_BYTES)} of samples wait for the disk"
            self._waiting.append(sample)
            self._waiting_bytes += held
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="metronorm-samples", daemon=True
                )
                self._thread.start()
        return None

    def _drop(self, name: str, tick: int, time_ns: int, reason: str, detail: str = "") -> None:
        """Count a sample; `detail` differs between samples that are dropped for one reason."""
        with self._changed:
            self.dropped += 1
            fields = {"samples": self.dropped, "name": name, "why": reason + detail}
            self._last_drop = (tick, time_ns, "samples dropped", fields)
            is_power_of_two = self.dropped & (self.dropped - 1) == 0
        if is_power_of_two:
            self._report_dropped()
        self._warn_once(
            reason,
            f"the sample {name!r} of tick {tick} is not kept: {reason}{detail}. All that are not "
            "kept are counted in `dropped`",
        )

    def _report_dropped(self) -> None:
        with self._changed:
            event, self._last_drop = self._last_drop, None
        if event is not None:
            self._event(*event)

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s: %s", self._directory, text)

    def close(self) -> None:
        """Write all samples that wait; drop the rest if none is done in `PATIENCE_SECONDS`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        before = -1
        while self._thread is not None and self._thread.is_alive() and before != len(self._waiting):
            before = len(self._waiting)
            self._thread.join(PATIENCE_SECONDS)
        with self._changed:
            left, self._waiting = self._waiting, deque()
        for sample in left:
            self._drop(sample.name, sample.tick, sample.time_ns, "the disk does not answer")
        self._report_dropped()

    # --- on the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        self._files.add_earlier(sample_folders(self._directory, self._rank))
        while (sample := self._next()) is not None:
            try:
                self._keep(sample)
            except OSError as error:
                self._drop_written(sample, error.strerror or str(error))
            except RunError:
                self._drop_written(sample, "its run is not there any more")
            # foreign code makes the text of a cell, and an accelerator may fail
            except Exception as error:
                detail = f" ({type(error).__name__}: {error})"
                self._drop_written(sample, "it cannot be made a file", detail)
            with self._changed:
                if self._waiting:  # else `close` does not wait any more
                    self._waiting.popleft()
                self._waiting_bytes -= sample.held_bytes

    def _next(self) -> _Waiting | None:
        with self._changed:
            while not (self._waiting or self._closing):
                # (to be woken by each sample would cost the thread that trains ten times as much)
                self._changed.wait(PERIOD_SECONDS)
            return self._waiting[0] if self._waiting else None

    def _drop_written(self, sample: _Waiting, reason: str, detail: str = "") -> None:
        self._drop(sample.name, sample.tick, sample.time_ns, reason, detail)

    def _keep(self, sample: _Waiting) -> None:
        """Write a sample, and then record its event.

        Raises:
            OSError, RunError, or any error of foreign code: it is not written.
        """
        if self._files.count >= MOST_SAMPLES:
            self._drop_written(sample, f"a run keeps at most {MOST_SAMPLES:,} samples")
            return
        encoded = sample.taken.encode()
        if self._files.bytes + len(encoded.data) > MOST_BYTES:
            self._drop_written(sample, f"a run keeps at most {size(MOST_BYTES)} of samples")
            return
        kind = sample.taken.kind
        folder = sample_folder(self._attempt, self._rank, sample.tick)
        path = self._files.new_path(folder, file_stem(sample.name), SUFFIXES[kind])
        self._write(path, encoded.data)
        fields = {"name": sample.name, "kind": kind, "path": str(path), "bytes": len(encoded.data)}
        self._event(sample.tick, sample.time_ns, "sample", fields | encoded.notes)
        for note in encoded.notes.keys() & _WARNINGS.keys():
            what = _WARNINGS[note].format(encoded.notes[note])
            self._warn_once(
                f"{kind} {note}", f"the {kind} {sample.name!r} of tick {sample.tick} {what}"
            )

    def _write(self, path: PurePosixPath, data: bytes) -> None:
        if read_run_info(self._directory).id != self._identity:
            raise RunError("another run is in its place")
        target = self._directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_aside(target) as aside:
            aside.write_bytes(data)
        self._files.add(len(data))


class _Files:
    """The files of a rank: how many there are, and which names are free."""

    def __init__(self) -> None:
        self.count = self.bytes = 0
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}  # for a name the number of its newest file

    def add(self, size: int) -> None:
        """Count a file of this many bytes."""
        self.count += 1
        self.bytes += size

    def add_earlier(self, folders: list[Path]) -> None:
        """Count the files of earlier attempts, and remove what a killed process has left."""
        for folder in folders:
            with contextlib.suppress(OSError):
                remove_leftovers(folder)
                for path in folder.iterdir():
                    self.add(path.lstat().st_size)

    def new_path(self, folder: PurePosixPath, stem: str, suffix: str) -> PurePosixPath:
        """A path that no sample of this attempt has: NAME.png, NAME-2.png, NAME-3.png, ..."""
        path = first = folder / f"{stem}{suffix}"
        while _key(path) in self._names:
            number = self._numbers[_key(first)] = self._numbers.get(_key(first), 1) + 1
            path = folder / f"{stem}-{number}{suffix}"
        self._names.add(_key(path))
        return path


def _key(path: PurePosixPath) -> str:
    return str(path).lower()  # some file systems do not tell "a" from "A"
