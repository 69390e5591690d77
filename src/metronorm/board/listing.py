"""The runs that a board shows: found again and again, each with its id, colour and standing.

A look (`Listing.look`) costs a few milliseconds for a thousand runs. What it looks at:

| what | how often |
| --- | --- |
| whether the folders that hold runs changed | at every look; all are searched every minute |
| runs that are running or have not begun: their newest files | at every look |
| all other runs: `run.json`, notes, folders | every 15 seconds, or 200 times what it takes |
| events of runs whose files changed | in a thread of their own, many runs in one query |
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from metronorm.board.entry import digest, file_stamp, read_entry
from metronorm.board.finding import Found, find_runs
from metronorm.board.notes import FILE, FOLDER, read_notes
from metronorm.board.standing import (
    UNDER_WAY,
    Standing,
    last_tick,
    read_standings,
    signature,
)
from metronorm.errors import RunError
from metronorm.store.run_directory import RUN_FILE, tape_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from metronorm.board.entry import Entry

COLORS = 10  # of the page's palette; number 10 is colour 0 with another dash
SEARCH_NS, FULL_NS = 60_000_000_000, 15_000_000_000
FULL_TIMES = 200  # what a full look cost, until the next


class Listing:
    """The runs below some folders.

    Args:
        roots: folders that hold runs, and runs.
        now: returns the time in nanoseconds since 1970.

    `close` ends its thread. All methods may be called from any thread.
    """

    def __init__(self, roots: Iterable[Path], *, now: Callable[[], int] = time.time_ns) -> None:
        self.roots = [root.absolute() for root in roots]
        self.notices: list[str] = []
        self._base = os.path.commonpath(self.roots) if self.roots else ""
        self._now = now
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._found = Found()
        self._searched_ns = self._full_ns = self._cost_ns = 0
        self._versions: dict[str, int] = {}
        self._version = 0
        self._removed: dict[str, int] = {}
        self._pending: set[str] = set()
        self._wake = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._stand, name="board-listing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closing.set()
            self._wake.notify_all()
        self._thread.join()

    @property
    def version(self) -> int:
        """A number that grows with every change of any run."""
        return self._version

    def entries(self) -> list[Entry]:
        """All runs, the newest first."""
        with self._lock:
            found = list(self._entries.values())
        return sorted(found, key=lambda one: one.info.created_ns if one.info else 0, reverse=True)

    def entry(self, run: str) -> Entry:
        """The run with an id.

        Raises:
            RunError: there is none, or it is damaged.
        """
        found = self._entries.get(run)
        if found is None:
            raise UnknownRunError("the run must be on the board", got=repr(run))
        return found

    def has(self, runs: Collection[str]) -> bool:
        """Whether all of these ids are in the list."""
        return all(run in self._entries for run in runs)

    def changed_since(self, version: int) -> tuple[list[Entry], list[str]]:
        """The runs that have changed after a version, and the ids of those that have gone."""
        with self._lock:
            changed = [one for one in self._entries.values() if self._versions[one.id] > version]
            return changed, [run for run, gone in self._removed.items() if gone > version]

    def wait_until_known(self, seconds: float) -> None:
        """Wait until it is known how every run stands, but no longer than some seconds."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing.is_set() or not self._pending, seconds)

    def look(self) -> None:
        """Look at the files again."""
        now = self._now()
        begun_ns = time.monotonic_ns()
        with self._lock:
            search = now - self._searched_ns >= SEARCH_NS or not self._found.is_same()
            full = search or now - self._full_ns >= max(FULL_NS, FULL_TIMES * self._cost_ns)
            if search:
                self._searched_ns = now
                self._found = find_runs(self.roots)
                self.notices = self._found.notices
            if full:
                self._full_ns = now
                self._read_all(self._found.runs)
            for entry in self._entries.values():
                if full or entry.state is None or entry.state in UNDER_WAY:
                    self._look_at(entry, now)
            if full:
                self._cost_ns = time.monotonic_ns() - begun_ns
            if self._pending:
                self._wake.notify_all()

    def refresh_notes(self, entry: Entry) -> None:
        """Read the notes of a run again."""
        with self._lock:
            self._read_notes(entry)

    def _read_all(self, directories: list[Path]) -> None:
        """Read the descriptions and notes that have changed; give ids and colours."""
        known = {entry.directory: entry for entry in self._entries.values()}
        entries: dict[str, Entry] = {}
        for directory in directories:
            stamp = file_stamp(f"{directory}/{RUN_FILE}")
            entry = known.get(directory)
            if entry is None or entry.stamp != stamp:
                entry = read_entry(directory, stamp, base=self._base)
            run = entry.own_id
            if run in entries:  # a copy
                run = f"{run}-{digest(str(directory))[:8]}"
            if entry.id != run:
                entry.id = run
                self._changed(entry)
            entries[run] = entry
            self._read_notes(entry)
        for run in self._entries.keys() - entries.keys():
            self._version += 1
            self._removed[run] = self._version
        for run in entries:
            self._removed.pop(run, None)
        self._entries = entries
        self._pending &= entries.keys()
        self._versions = {run: self._versions[run] for run in entries}
        self._give_colors()

    def _read_notes(self, entry: Entry) -> None:
        stamp = file_stamp(f"{entry.directory}/{FOLDER}/{FILE}")
        if stamp != entry.notes_stamp:
            entry.notes_stamp = stamp
            notes = read_notes(entry.directory)
            if notes != entry.notes:
                entry.notes = notes
                self._changed(entry)

    def _give_colors(self) -> None:
        """A colour for each run from its id; the next one, if fewer runs have that."""
        used = [0] * COLORS
        oldest = sorted(
            self._entries.values(),
            key=lambda one: (one.info.created_ns if one.info else 0, one.id),
        )
        for entry in oldest:
            wanted = int(digest(entry.id)[:8], 16) % COLORS
            fewest = min(used)
            at = next(
                each for each in (*range(wanted, COLORS), *range(wanted)) if used[each] == fewest
            )
            color = at + COLORS * used[at]
            used[at] += 1
            if entry.color != color:
                entry.color = color
                self._changed(entry)

    def _look_at(self, entry: Entry, now: int) -> None:
        """Look whether a run has got records; what they say is read by the thread."""
        if entry.info is None:
            return
        standing = entry.standing
        if standing is not None and entry.state not in UNDER_WAY:
            # an attempt that has ended gets no lines: a new one, or sealing, changes a folder
            names = (f"{entry.directory}/ticks", *entry.signature.tapes)
            folders = tuple(map(file_stamp, names))
            if folders == entry.folders and entry.stood == entry.signature:
                return
            entry.folders = folders
        found = signature(entry.directory)
        is_new = entry.stood is None or found[:2] != entry.stood[:2]
        if is_new and now >= entry.next_look_ns:
            self._pending.add(entry.id)
        if standing is not None and found != entry.signature:
            self._read_tick(entry, standing)
        entry.signature = found
        if standing is not None:
            self._set_state(entry, standing)

    def _read_tick(self, entry: Entry, standing: Standing) -> None:
        for rank in standing.ranks[:1]:
            last = last_tick(tape_folder(entry.directory, "ticks", standing.attempt, rank))
            if last is not None and last.time_ns > standing.time_ns:
                standing.tick, standing.time_ns = last.tick, last.time_ns
                standing.wall_ns = last.wall_ns
                self._changed(entry)

    def _set_state(self, entry: Entry, standing: Standing) -> None:
        state = standing.state(entry.directory)
        if state != entry.state:
            entry.state = state
            self._changed(entry)

    def _changed(self, entry: Entry) -> None:
        self._version += 1
        self._versions[entry.id] = self._version

    def _stand(self) -> None:
        """The thread: find out how runs stand whose files have changed."""
        while not self._closing.is_set():
            with self._wake:
                self._wake.wait_for(lambda: self._closing.is_set() or self._pending)
            self._read_pending()  # (its names end with it: nothing here holds runs that are gone)

    def _read_pending(self) -> None:
        with self._wake:
            entries = {
                entry.directory: (entry, entry.info)
                for entry in (self._entries[run] for run in self._pending)
                if entry.info is not None
            }
        begun = self._now()
        seen = {directory: signature(directory) for directory in entries}
        places = [(directory, info) for directory, (_, info) in entries.items()]
        for directory, standing in read_standings(places):
            entry, info = entries[directory]
            total = standing.total(directory, info)
            with self._wake:
                if self._entries.get(entry.id) is entry:
                    entry.standing, entry.total = standing, total
                    entry.stood = seen[directory]
                    # a run with many events is not read all the time
                    entry.next_look_ns = self._now() + 5 * (self._now() - begun)
                    self._set_state(entry, standing)
                    self._changed(entry)
                self._pending.discard(entry.id)
                self._wake.notify_all()
            if self._closing.is_set():
                return


class UnknownRunError(RunError):
    """An id that no run of the board has."""
