"""What `metronorm runs` lists of each run, without reading its values."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.board.notes import read_notes
from metronorm.board.standing import Standing, read_standings
from metronorm.errors import RunError
from metronorm.files import shown_path
from metronorm.store.run_directory import read_run_info

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.store.run_directory import RunInfo


@dataclass(frozen=True)
class Listed:
    """A run of the list; `planned` is None if it is not known, `problem` if there is none.

    `created_ns` and `newest_tick_ns` are in nanoseconds since 1970, 0 if there is none.
    """

    directory: str
    name: str
    id: str
    state: str
    ticks: int
    planned: int | None
    created_ns: int
    newest_tick_ns: int
    disk_bytes: int
    checkpoint_bytes: int
    starred: bool
    tags: tuple[str, ...]
    problem: str | None


def list_runs(directories: Iterable[Path], *, newest: int | None = None) -> list[Listed]:
    """The runs in some directories, the one that was created last first.

    Args:
        directories: of runs; what is wrong with one of them is its `problem`.
        newest: how many to list; None: all.
    """
    infos: dict[Path, RunInfo] = {}
    problems: dict[Path, str] = {}
    for path in directories:
        try:
            infos[path] = read_run_info(path)
        except RunError as error:
            problems[path] = str(error)
    paths = [*problems, *sorted(infos, key=lambda path: infos[path].created_ns, reverse=True)]
    paths = paths[:newest]
    standings = dict(read_standings((path, infos[path]) for path in paths if path in infos))
    return [
        _listed(path, infos.get(path), standings.get(path), problems.get(path)) for path in paths
    ]


def _listed(
    path: Path, info: RunInfo | None, standing: Standing | None, problem: str | None
) -> Listed:
    stands, notes = standing or Standing(), read_notes(path)
    problem = problem or stands.problem or (None if standing else "its files cannot be read")
    disk, checkpoints = disk_bytes(path)
    return Listed(
        directory=shown_path(path),
        name=info.name if info else path.name,
        id=info.id if info else "",
        state="damaged" if problem else stands.state(path),
        ticks=stands.tick,
        planned=stands.total(path, info) if info and not problem else None,
        created_ns=info.created_ns if info else 0,
        newest_tick_ns=stands.time_ns,
        disk_bytes=disk,
        checkpoint_bytes=checkpoints,
        starred=notes.starred,
        tags=notes.tags,
        problem=problem,
    )


def disk_bytes(directory: Path) -> tuple[int, int]:
    """Bytes that a run takes on its disk, and those of its checkpoints; links are not followed."""
    whole = checkpoints = 0
    seen: set[tuple[int, int]] = set()  # a file with two names takes its room once
    for folder, _, names in os.walk(directory):
        inside = Path(folder).relative_to(directory).parts[:1] == ("checkpoints",)
        for name in names:
            try:
                status = Path(folder, name).lstat()
            except OSError:  # gone meanwhile
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                whole += 512 * status.st_blocks
                checkpoints += 512 * status.st_blocks * inside
    return whole, checkpoints
