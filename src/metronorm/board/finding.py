"""Which runs there are below the folders that a board shows."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.store.run_directory import RUN_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_DEPTH = 6
MOST_FOLDERS = 20_000  # that are looked into: a board that is given `/` must not hang


@dataclass
class Found:
    """The directories of runs, sorted, and sentences about what was not looked into.

    `folders` are those that were looked into and are no runs, with the times of their last change:
    if these are the same, so are the runs.
    """

    runs: list[Path] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    folders: dict[Path, int] = field(default_factory=dict)

    def is_same(self) -> bool:
        """Whether no folder has changed since."""
        return all(_changed_ns(folder) == time_ns for folder, time_ns in self.folders.items())


def find_runs(roots: Iterable[Path]) -> Found:
    """The runs below some folders, and the folders that are runs themselves.

    A run is a directory with a `run.json`; nothing inside of it is another one. Hidden folders are
    left out. A folder that is reached twice, as by a link, is looked into once.

    Args:
        roots: folders; those that do not exist are left out.
    """
    found, runs = Found(), dict[Path, None]()
    seen: set[tuple[int, int]] = set()
    folders = [(Path(root).absolute(), 0) for root in roots]
    found.folders = {folder: _changed_ns(folder) for folder, _ in folders}
    while folders:
        folder, depth = folders.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                names = {entry.name: entry for entry in entries}
            if RUN_FILE in names:
                runs[folder] = None
                found.folders.pop(folder, None)
                continue
            found.folders[folder] = status.st_mtime_ns
            inner = [
                folder / name
                for name, entry in names.items()
                if not name.startswith(".") and entry.is_dir()
            ]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            found.notices.append(f"{folder} was left out: {error.strerror or error}")
            continue
        if inner and depth == MOST_DEPTH:
            found.notices.append(f"{folder} was left out: more than {MOST_DEPTH} folders deep")
        elif len(seen) + len(folders) + len(inner) > MOST_FOLDERS:
            found.notices.append(
                f"{folder} was left out: there are more than {MOST_FOLDERS:,} folders"
            )
        else:
            folders += [(path, depth + 1) for path in inner]
    found.runs = sorted(runs)
    return found


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
