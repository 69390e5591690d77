"""One run of the list: its description, notes and standing, as they were read last."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from metronorm.board.notes import Notes
from metronorm.board.opening import read_info
from metronorm.board.standing import Signature, Standing
from metronorm.errors import MetronormError, RunError
from metronorm.store.run_directory import RunInfo
from metronorm.text import flat, printable

LARGE_CONFIG = 256 << 10  # bytes of a run.json whose config is not kept in memory
_KEPT = ("ticks", "best", "best_mode")  # of such a config
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(eq=False)
class Entry:
    """A run of the list. `info` is None and `damaged` the reason if it cannot be read."""

    id: str  # in the list: `own_id`, or another one if that is taken
    directory: Path
    folder: str
    info: RunInfo | None
    damaged: str | None
    stamp: tuple[int, ...]
    large: bool = False
    notes: Notes = field(default_factory=Notes)
    notes_stamp: tuple[int, ...] = ()
    standing: Standing | None = None
    signature: Signature = field(default_factory=Signature)  # of the last look
    folders: tuple[tuple[int, ...], ...] = ()  # the times of those that get files
    stood: Signature | None = None  # of the files that `standing` was read from
    state: str | None = None
    total: int | None = None
    color: int = 0
    next_look_ns: int = 0

    @property
    def name(self) -> str:
        """The name of the run; that of its folder, if it is damaged."""
        return printable(self.info.name if self.info else self.directory.name)

    @property
    def is_unread(self) -> bool:
        """Whether nobody has looked yet how it stands."""
        return self.standing is None and not self.damaged

    @property
    def own_id(self) -> str:
        """Its id, fit for an address: a run may come from anybody, with any id."""
        if self.info is None:
            return f"damaged-{digest(str(self.directory))[:16]}"
        run = self.info.id
        return run if _ID.fullmatch(run) else f"run-{digest(run)[:16]}"

    def config(self) -> dict[str, Any]:
        """The options by their whole names, as `run.json` has them."""
        if self.info is None:
            return {}
        with contextlib.suppress(RunError):
            return flat(read_info(self.directory).config if self.large else self.info.config)
        return {}

    def listed(self, now_ns: int) -> dict[str, Any]:
        """What the page's list has of the run; times are in nanoseconds since 1970."""
        standing, notes = self.standing or Standing(), self.notes
        damaged = self.damaged or (standing.problem and printable(standing.problem))
        state = "damaged" if damaged else self.state
        return {
            "id": self.id,
            "name": self.name,
            "folder": printable(self.folder),
            "state": None if state is None else printable(state),
            "stalled": standing.is_stalled(state or "", now_ns),
            "tick": standing.tick,
            "total": self.total,
            "age_ns": max(now_ns - standing.time_ns, 0) if standing.time_ns else None,
            "begun_ns": self.info.created_ns if self.info else None,
            "color": notes.color or self.color,
            "damaged": damaged,
            "not_finite": standing.not_finite,
            "tags": notes.tags,
            "starred": notes.starred,
            "hidden": notes.hidden,
            "note": notes.note,
        }


def read_entry(directory: Path, stamp: tuple[int, ...], *, base: str) -> Entry:
    """A run as its `run.json` describes it.

    Args:
        directory: the directory of the run.
        stamp: `file_stamp` of its `run.json`.
        base: the folder that its name in the list leaves out.
    """
    info, damaged = None, None
    try:
        info = read_info(directory)
    except MetronormError as error:
        damaged = printable(str(error))
    entry = Entry("", directory, os.path.relpath(directory, base), info, damaged, stamp)
    if entry.folder == ".":
        entry.folder = directory.name
    if info is not None and stamp and stamp[1] > LARGE_CONFIG:
        entry.large = True
        kept = {name: info.config[name] for name in _KEPT if name in info.config}
        entry.info = msgspec.structs.replace(info, config=kept)
    return entry


def file_stamp(path: str) -> tuple[int, ...]:
    """What changes with a file or folder; empty if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path would cost more than the look
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def digest(text: str) -> str:
    """A number of 64 hexadecimal digits for a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
