"""Find the files that a user names as files, folders or globs, and count what is left out."""

from __future__ import annotations

import fnmatch
import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org")
"""Suffixes of the files that are taken from a folder. A file that is named, or that a glob matches,
may have any suffix."""

STDIN = "-"
"""The source that is standard input."""

# the kinds of what is left out, as users read them
NO_TEXT = "files without a text suffix"
LINKED = "links to folders that hold the source"
BROKEN = "broken links"
SPECIAL = "pipes, sockets and devices"
EMPTY = "empty files"
COPIES = "copies of other documents"


def absolute(path: str | os.PathLike[str], folder: Path | None = None) -> str:
    """Make a path or a glob absolute, so it stays the same if the process changes its folder.

    `~` and `~user` are expanded. Characters of globs in the path of the folder are escaped.

    Args:
        path: a path or a glob.
        folder: the folder that it begins at; None: the current one.

    Raises:
        ConfigError: the path is empty or not UTF-8, which a run's record could not store.
    """
    whole = os.path.expanduser(os.fspath(path))  # noqa: PTH111  (keeps an unknown ~user)
    if not whole:
        raise ConfigError(
            "a path must not be empty", got=repr(path), fix="'.' for the current folder"
        )
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "a path must be UTF-8",
            got=ascii(path),
            fix="name its folder instead, or rename it",
        ) from None
    if os.path.isabs(whole):  # noqa: PTH117
        return whole
    here = str(folder or Path.cwd())
    plain = os.path.join(here, whole)  # noqa: PTH118  (keeps what Path would shorten)
    if glob.has_magic(whole) and not os.path.lexists(plain):
        return os.path.join(glob.escape(here), whole)  # noqa: PTH118
    return plain


def find_files(
    source: str | os.PathLike[str],
    left_out: Counter[str],
    wanted: Callable[[Path], bool] | None = None,
    *,
    walked: set[Path] | None = None,
) -> list[Path]:
    """Find the files of one source.

    A path that exists is never read as a glob, nor is a part of a glob that names an existing file.
    `*`, `?`, `[...]` and `**` (any number of folders) are those of Python's `glob`: they match no
    hidden names unless the part begins with a dot. A link to a folder is followed once, so links in
    a circle are harmless; one to a folder that holds the source is not.

    Args:
        source: a file, a folder or a glob.
        left_out: counts by kind; the files and folders that this source leaves out are added.
        wanted: which files of a folder are taken; None: those with a text's suffix.
        walked: the files that are not named, but in a folder that is, are added.

    Raises:
        ConfigError: the path is empty or not UTF-8.
        DataError: the source matches nothing, or is no regular file.
        OSError: a folder cannot be listed.
    """
    path = Path(absolute(source))
    exists = os.path.lexists(path)
    matches = [path] if exists else _matches(path, left_out)
    if not matches:
        raise DataError(
            "every source must be a file, a folder or a glob that matches files",
            got=f"{os.fspath(source)!r}, which matches nothing",
            fix="check the spelling, and quote globs",
        )
    files: list[Path] = []
    for match in matches:
        if match.is_dir():
            for file in _files_below(match, left_out):
                if wanted(file) if wanted else file.suffix.lower() in TEXT_SUFFIXES:
                    files.append(file)
                    if walked is not None:
                        walked.add(file)
                else:
                    left_out[NO_TEXT] += 1
        elif match.is_file():
            files.append(match)
        elif exists and match.is_symlink():
            raise DataError(
                "a source must be a regular file or a folder",
                got=f"{match}, a link to neither",
                fix="name the text itself, or correct the link",
            )
        elif exists:
            raise DataError(
                "a source must be a regular file or a folder",
                got=str(match),
                fix="write its content to a file first",
            )
        else:
            left_out[_kind(match)] += 1
    return files


def _matches(pattern: Path, left_out: Counter[str]) -> list[Path]:
    """The files and folders that a glob matches, sorted."""
    first, *parts = pattern.parts
    found = {Path(first)}
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if part != "**":
            found = {match for folder in found for match in _children(folder, part)}
        elif not following:
            found = {file for folder in found for file in _files_below(folder, left_out)}
        elif following != "**":
            found = {Path(here) for folder in found for here, _ in _folders_below(folder, left_out)}
    return sorted(found)


def _children(folder: Path, part: str) -> Iterator[Path]:
    """The entries of a folder that one part of a glob, or a name, matches."""
    if os.path.lexists(folder / part):
        yield folder / part
    elif glob.has_magic(part) and folder.is_dir():
        for name in fnmatch.filter(os.listdir(folder), part):  # noqa: PTH208
            if not name.startswith(".") or part.startswith("."):
                yield folder / name


def _files_below(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """All regular files below a folder that are not hidden.

    Raises:
        OSError: a folder cannot be listed.
    """
    for here, names in _folders_below(folder, left_out):
        for name in names:
            file = Path(here, name)
            if file.is_file():
                yield file
            else:
                left_out[_kind(file)] += 1


def _folders_below(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """A folder and all folders below it, except hidden ones, and their visible names.

    A link is followed unless it leads to a folder that was there before, or that the first one is
    in. A folder may come twice, by a link and then by itself; the files' own paths tell.
    """

    def refuse(error: OSError) -> None:  # os.walk would skip the folder
        raise error

    root = folder.resolve()
    been = {root}
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        seen = [Path(here, name) for name in sorted(folders) if not name.startswith(".")]
        kept = [path.name for path in seen if not path.is_symlink()]
        been.update(path.resolve() for path in seen if not path.is_symlink())
        for path in seen:
            if not path.is_symlink() or (target := path.resolve()) in been:
                continue
            if root.is_relative_to(target):
                left_out[LINKED] += 1
            else:
                been.add(target)
                kept.append(path.name)
        folders[:] = kept
        yield here, [name for name in names if not name.startswith(".")]


def _kind(file: Path) -> str:
    return BROKEN if file.is_symlink() else SPECIAL
