"""From what a user names (files, folders, globs) to files, with an account of what is left out."""

from __future__ import annotations

import fnmatch
import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org")
"""What is taken from a folder. A file that is named, or matched by a glob, may end in anything."""

# what can be left out, as a user reads it
NO_TEXT = "files that are no text by their names"
LINKED = "folders behind links"
BROKEN = "broken links"
SPECIAL = "pipes, sockets and devices"
EMPTY = "empty files"
COPIES = "copies of other documents"


def absolute(path: str | os.PathLike[str]) -> str:
    """A path, or a glob, that means the same wherever the process goes later.

    `~` and `~user` are expanded. Signs of globs in the current folder's own path stay literal.

    Raises:
        ConfigError: an empty path, or one that a run's record cannot hold.
    """
    whole = os.path.expanduser(os.fspath(path))  # noqa: PTH111  (leaves an unknown ~user)
    if not whole:
        raise ConfigError(
            "a path must not be empty", got=repr(path), fix="'.' for the current folder"
        )
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "a path must be UTF-8", got=ascii(path), fix="name the folder it lies in, or rename it"
        ) from None
    if os.path.isabs(whole):  # noqa: PTH117
        return whole
    here = os.getcwd()  # noqa: PTH109
    if glob.has_magic(whole) and not os.path.lexists(whole):
        here = glob.escape(here)
    return os.path.join(here, whole)  # noqa: PTH118


def find_files(source: str | os.PathLike[str], left_out: Counter[str]) -> list[Path]:
    """The files of one source; how many things of which kind it leaves out is added to `left_out`.

    A path that exists is taken literally, whatever signs are in it; so is each part of a glob.
    `*`, `?`, `[...]` and `**` (any number of folders) are those of Python's `glob`: they match
    nothing that is hidden unless they start with a dot. `**` enters no folder behind a link, so
    that links in a circle do no harm.

    Raises:
        ConfigError: an empty path.
        DataError: nothing there, or no regular file.
        OSError: a folder that cannot be listed.
    """
    path = Path(absolute(source))
    is_there = os.path.lexists(path)
    matches = [path] if is_there else _matches(path, left_out)
    if not matches:
        raise DataError(
            "every source must be a file, a folder or a glob that matches some",
            got=f"{os.fspath(source)!r}, where there is nothing",
            fix="check the spelling, and quote globs",
        )
    files: list[Path] = []
    for match in matches:
        if match.is_dir():
            for file in _below(match, left_out):
                if file.suffix.lower() in TEXT_SUFFIXES:
                    files.append(file)
                else:
                    left_out[NO_TEXT] += 1
        elif match.is_file():
            files.append(match)
        elif is_there and match.is_symlink():
            raise DataError(
                "a source must be a regular file or a folder",
                got=f"{match}, a link that leads to neither",
                fix="name the text itself, or mend the link",
            )
        elif is_there:
            raise DataError(
                "a source must be a regular file or a folder",
                got=str(match),
                fix="write what it gives to a file first",
            )
        else:
            left_out[_kind(match)] += 1
    return files


def _matches(pattern: Path, left_out: Counter[str]) -> list[Path]:
    """What a glob matches, sorted."""
    first, *parts = pattern.parts
    found = {Path(first)}
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if part != "**":
            found = {match for folder in found for match in _children(folder, part)}
        elif not following:
            found = {file for folder in found for file in _below(folder, left_out)}
        elif following != "**":
            found = {Path(here) for folder in found for here, _ in _folders(folder, left_out)}
    return sorted(found)


def _children(folder: Path, part: str) -> Iterator[Path]:
    """What one part of a glob, or a name, matches in a folder."""
    if os.path.lexists(folder / part):
        yield folder / part
    elif glob.has_magic(part) and folder.is_dir():
        for name in fnmatch.filter(os.listdir(folder), part):  # noqa: PTH208
            if not name.startswith(".") or part.startswith("."):
                yield folder / name


def _below(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Every visible regular file below a folder.

    Raises:
        OSError: a folder that cannot be listed.
    """
    for here, names in _folders(folder, left_out):
        for name in names:
            file = Path(here, name)
            if file.is_file():
                yield file
            else:
                left_out[_kind(file)] += 1


def _folders(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """A folder and every visible one below it that is no link, with the visible names in it."""

    def refuse(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        left_out[LINKED] += sum(Path(here, name).is_symlink() for name in folders)
        yield here, [name for name in names if not name.startswith(".")]


def _kind(file: Path) -> str:
    return BROKEN if file.is_symlink() else SPECIAL
