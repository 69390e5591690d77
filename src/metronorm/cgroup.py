"""The memory that a container or a batch system leaves to this process: Linux's control groups.

A process is in one group of memory, and each group above it can have a limit too. `/proc/meminfo`
knows of none of them. Both versions of control groups are read (the kernel's documentation,
admin-guide/cgroup-v1/memory and cgroup-v2):

| version | limit | used | of it, cached files that the kernel lets go |
| --- | --- | --- | --- |
| 2 | `memory.max` | `memory.current` | `inactive_file` in `memory.stat` |
| 1 | `memory.limit_in_bytes` | `memory.usage_in_bytes` | `total_inactive_file` |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PROCESS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60  # version 1 writes the largest number of pages where there is no limit


class _Files(NamedTuple):
    """Names of one version."""

    limit: str
    used: str
    cached: str


_VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")


def bytes_left(process: Path = _PROCESS, root: Path = _ROOT) -> int | None:
    """Bytes that this process may take until it meets the limit of a group; None: no limit.

    Args:
        process: the file that says which groups it is in.
        root: where the groups are mounted.
    """
    return _least(_left, process, root)


def limit_bytes(process: Path = _PROCESS, root: Path = _ROOT) -> int | None:
    """The lowest limit of the groups that this process is in, in bytes; None: no limit.

    Args:
        process: the file that says which groups it is in.
        root: where the groups are mounted.
    """
    return _least(_limit, process, root)


def _least(read: Callable[[Path, _Files], int | None], process: Path, root: Path) -> int | None:
    """The lowest number that `read` finds in the groups of a process; None: it finds none."""
    found = (read(group, files) for group, files in _groups(process, root))
    return min((each for each in found if each is not None), default=None)


def _groups(process: Path, root: Path) -> Iterator[tuple[Path, _Files]]:
    """The groups of memory that a process is in, from its own to the top."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, files = root, _VERSION_2
        elif "memory" in controllers.split(","):
            top, files = root / "memory", _VERSION_1
        else:
            continue
        folder = top / path.lstrip("/")
        if not folder.is_dir():  # of the machine, where the container sees only its own group
            folder = top
        for group in (folder, *folder.parents):
            yield group, files
            if group == top:
                break


def _limit(group: Path, files: _Files) -> int | None:
    try:
        limit = int((group / files.limit).read_text())  # "max" is none
    except (OSError, ValueError):
        return None
    return limit if limit < _NO_LIMIT else None


def _left(group: Path, files: _Files) -> int | None:
    limit = _limit(group, files)
    if limit is None:
        return None
    try:
        used = int((group / files.used).read_text())
        stat = (group / "memory.stat").read_text()
    except (OSError, ValueError):
        return None
    counts = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    return max(0, limit - used + int(counts.get(files.cached, 0)))
