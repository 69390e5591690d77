"""Mirrors: what a training records is written to another tracker too, while it trains.

    with mirroring("runs/mine", ["tensorboard"]):
        train(task, config, "runs/mine")

A mirror is a thread that follows the tape of the run, so a tick costs the loop nothing:

| what | is in the way of the loop |
| --- | --- |
| the queue | the run itself, which is on the disk anyway: no memory grows, and no tick is dropped |
| a tracker that is slow, or waits for a network | no: its thread waits, and reads on later |
| ticks that are not written soon after the end | for so long; then they are counted and said |
| a tracker that fails | no: it is said once, and its mirror ends |
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.integrations.names import BEATS_TAG, GC_TAG, WALL_TAG, tag_of
from metronorm.integrations.trackers import TRACKERS, Opened
from metronorm.runs import open_run
from metronorm.runs.amendments import amendment
from metronorm.runs.events import Event, read_events
from metronorm.runs.following.tail import Tail
from metronorm.store.run_directory import (
    folder_number,
    numbered_folders,
    read_run_info,
    tape_folder,
)
from metronorm.store.schema import TickRecord
from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from metronorm.integrations.trackers import Tracker

LOOK_SECONDS = 0.5  # between two looks at the tape
# While the training goes on, a mirror works for so long, and rests for so many times as long: its
# thread and the loop cannot both run Python.
WORK_SECONDS, RESTS = 0.005, 4
END_SECONDS = 20.0  # that a mirror has for the rest, when the training has ended
_KINDS = ("ticks", "events")
_ROWS = 1000  # at once, of what was sealed

_log = logging.getLogger("metronorm")


class Mirror:
    """A thread that writes the ticks of one attempt, as they are recorded, to a tracker.

    Args:
        name: of the tracker.
        tracker: where to write.
        directory: of the run.
        before: the attempts that the run has already.
    """

    def __init__(self, name: str, tracker: Tracker, directory: Path, before: set[int]) -> None:
        self.name, self._tracker, self._directory = name, tracker, directory
        self._before = before
        self._over = threading.Event()  # the training has ended
        self._late = threading.Event()  # there is no more time
        self._thread = threading.Thread(
            target=self._run, name=f"metronorm mirror {name}", daemon=True
        )
        self._attempt = -1
        self._tails: dict[str, Tail] = {}
        self._is_open = False
        self._kept = self._tick = self._event_ns = 0
        self.written = 0

    def start(self) -> None:
        """Begin to wait for the attempt."""
        self._thread.start()

    def stop(self) -> None:
        """The training has ended: write the rest."""
        self._over.set()

    def join(self, seconds: float) -> None:
        """Wait for the rest, and say what is missing after so many seconds."""
        self._thread.join(seconds)
        if not self._thread.is_alive():
            return
        self._late.set()
        missing = sum(1 for _ in self._recorded()) if self._attempt >= 0 else 0
        _log.warning(
            "mirror %s: the last %d ticks were not written in %g s; the run has them",
            self.name,
            missing,
            seconds,
        )

    def _run(self) -> None:
        try:
            while not self._over.wait(LOOK_SECONDS):
                self._look()
            self._look()
            if self._is_open:
                self._tracker.close()
        except Exception as error:  # whatever a tracker does, the training goes on
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            _log.warning(
                "mirror %s failed after %d ticks (%s); the training goes on, and the run has every "
                "tick: metronorm export writes them elsewhere",
                self.name,
                self.written,
                reason,
            )

    def _look(self) -> None:
        """Write what is new on the tapes; what was sealed since the last look, from the run."""
        if not self._tails and not self._begin():
            return
        ticks = self._tails["ticks"].read()
        events = self._tails["events"].read()
        if ticks is None or events is None:
            self._tails, known = self._follow(), self._tick
            self._write_ticks(self._recorded())
            later = self._recorded_later(known)
        else:
            self._write_ticks(ticks)
            later = [
                Event(each.event, self._attempt, 0, each.tick, each.time_ns, each.fields)
                for each in events
                if each.event == "between"
            ]
        self._write_later(later)
        if self._is_open:
            self._tracker.flush()

    def _begin(self) -> bool:
        """Whether the attempt has begun; then its tapes are followed."""
        found = map(folder_number, numbered_folders(self._directory / "ticks", "attempt"))
        attempts = [attempt for attempt in found if attempt not in self._before]
        if not attempts:
            return False
        self._attempt = max(attempts)
        if not all(
            tape_folder(self._directory, kind, self._attempt, 0).is_dir() for kind in _KINDS
        ):
            return False
        self._tails = self._follow(from_beginning=True)
        return True

    def _follow(self, *, from_beginning: bool = False) -> dict[str, Tail]:
        identity = read_run_info(self._directory).id
        return {
            kind: Tail(
                tape_folder(self._directory, kind, self._attempt, 0),
                kind,
                identity,
                from_beginning=from_beginning,
            )
            for kind in _KINDS
        }

    def _recorded(self) -> Iterator[TickRecord]:
        """The ticks of the attempt that are not written yet, with what was logged after them."""
        table, last = open_run(self._directory).ticks("full"), self._tick
        phases, metrics = table.phases, table.metrics
        names = table.columns
        while rows := table.fetch(
            f"select {', '.join(map(identifier, names))} from ticks where rank = 0 "
            f"and attempt = {self._attempt} and tick > {last} order by tick limit {_ROWS}"
        ):
            for row in (dict(zip(names, cells, strict=True)) for cells in rows):
                last = row["tick"]
                yield TickRecord(
                    last,
                    row["time_ns"],
                    row["wall_ns"],
                    row["beats"],
                    {name: ns for name in phases if (ns := row[f"{name}_ns"]) is not None},
                    {name: value for name in metrics if (value := row[name]) is not None},
                    gc_ns=row.get("gc_ns"),
                )

    def _recorded_later(self, known: int) -> list[Event]:
        """What was logged after ticks up to `known`."""
        where = f"attempt = {self._attempt} and rank = 0 and tick <= {known} and event = 'between'"
        return read_events(open_run(self._directory).events(), where)

    def _write_ticks(self, records: Iterable[TickRecord]) -> None:
        begin = time.thread_time()
        for record in records:
            if record.tick <= self._tick:  # met before
                continue
            if self._late.is_set():
                return
            if not self._is_open:
                info = read_run_info(self._directory)
                self._kept = self._tracker.open(Opened(info, self._directory, record.tick - 1))
                self._is_open = True
            self._tick = record.tick
            if record.tick > self._kept:
                self._tracker.write(record.tick, record.time_ns, scalars_of(record))
                self.written += 1
            worked = time.thread_time() - begin
            if worked > WORK_SECONDS:
                self._over.wait(RESTS * worked)
                begin = time.thread_time()

    def _write_later(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.time_ns <= self._event_ns or not self._is_open or self._late.is_set():
                continue
            self._event_ns = event.time_ns
            later = amendment(event)
            if later and later.metrics and later.tick > self._kept:
                self._tracker.write(later.tick, later.time_ns, metrics_of(later))


def metrics_of(record: TickRecord) -> dict[str, float]:
    """The metrics of a tick by their tags."""
    return {tag_of(name): float(value) for name, value in record.metrics.items()}


def scalars_of(record: TickRecord) -> dict[str, float]:
    """All numbers of a tick, under the names that `export_tensorboard` gives them."""
    found = metrics_of(record)
    found[WALL_TAG] = record.wall_ns / 1e9
    if record.gc_ns is not None:
        found[GC_TAG] = record.gc_ns / 1e9
    if record.beats != 1:
        found[BEATS_TAG] = record.beats
    for name, spent_ns in record.phases.items():
        found[f"phase/{name}_seconds"] = spent_ns / 1e9
    return found


def trackers_of(names: Sequence[str]) -> dict[str, Tracker]:
    """The trackers of these names; errors as of `mirroring`."""
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ConfigError(f"a mirror must be one of {', '.join(TRACKERS)}", got=repr(unknown[0]))
    return {name: TRACKERS[name]() for name in names}


@contextlib.contextmanager
def mirroring(
    directory: str | os.PathLike[str], names: Sequence[str], *, end_seconds: float = END_SECONDS
) -> Iterator[list[Mirror]]:
    """Mirror what rank 0 records inside of the block, in a new attempt of a run.

    Args:
        directory: of the run, which may not be there yet.
        names: of trackers: tensorboard, wandb, trackio.
        end_seconds: how long the mirrors may take after the block.

    Raises:
        ConfigError: no such tracker.
        MissingDependencyError: the package of a tracker is not installed.
    """
    trackers = trackers_of(names)
    directory = Path(directory).absolute()
    before = {*map(folder_number, numbered_folders(directory / "ticks", "attempt"))}
    mirrors = [Mirror(name, tracker, directory, before) for name, tracker in trackers.items()]
    for mirror in mirrors:
        mirror.start()
    try:
        yield mirrors
    finally:
        for mirror in mirrors:
            mirror.stop()
        until = time.monotonic() + end_seconds
        for mirror in mirrors:
            mirror.join(max(until - time.monotonic(), 0.0))
