"""What is in the cache of prepared texts: listed, and removed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from metronorm.data.dataset import read_meta
from metronorm.files import remove_directory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Cached(NamedTuple):
    """A prepared text in the cache.

    Attributes:
        directory: its folder.
        disk_bytes: what its files take.
        used: when a `prepare` has last used it, in seconds since the epoch.
        tokens: of its training text and of that held out.
        sources: where the text was found, as far as it is known: older versions do not say.
    """

    directory: Path
    disk_bytes: int
    used: float
    tokens: int
    sources: tuple[str, ...]


def list_cached(folder: Path) -> list[Cached]:
    """The prepared texts in a folder, those used last first; anything else in it is passed over."""
    found = []
    with suppress(OSError):
        for directory in folder.iterdir():
            with suppress(OSError):
                if (meta := read_meta(directory)) is None:
                    continue
                files = [path.stat() for path in directory.iterdir()]
                found.append(
                    Cached(
                        directory,
                        sum(file.st_size for file in files),
                        (directory / "meta.json").stat().st_mtime,
                        meta.train.tokens + meta.validation.tokens,
                        tuple(meta.sources),
                    )
                )
    return sorted(found, key=lambda each: (-each.used, each.directory.name))


def remove_cached(cached: Iterable[Cached]) -> None:
    """Remove prepared texts; a process of this machine that has mapped one can still read it.

    Raises:
        OSError: one cannot be removed.
    """
    for each in cached:
        remove_directory(each.directory)
