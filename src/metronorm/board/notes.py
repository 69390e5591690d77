"""What people add to a run on the board: a star, tags, a note, a colour, or that it is hidden.

It is in `RUN/board/notes.json`. This is the only file of a run that the board writes for a person;
the record of the run is never changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from metronorm.errors import ConfigError, RunError
from metronorm.files import read_regular, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER, FILE = "board", "notes.json"

MOST_BYTES = 1 << 20  # of the file; what the fields may hold is less

_Tag = Annotated[str, msgspec.Meta(max_length=100)]
_Tags = Annotated[tuple[_Tag, ...], msgspec.Meta(max_length=50)]
_Note = Annotated[str, msgspec.Meta(max_length=20_000)]
_Color = Annotated[str, msgspec.Meta(pattern="^(#[0-9a-f]{6})?$")]


class Notes(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What people added to a run; `color` is "#rrggbb", or "" for the colour of the run's id."""

    starred: bool = False
    hidden: bool = False
    tags: _Tags = ()
    note: _Note = ""
    color: _Color = ""


def read_notes(directory: Path) -> Notes:
    """The notes of the run in a directory; those of a damaged file are empty."""
    try:
        return _read(directory / FOLDER / FILE)
    except (OSError, ValueError, RecursionError):
        return Notes()


def _read(path: Path) -> Notes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large to hold notes")
        return msgspec.json.decode(read_regular(path), type=Notes)
    except FileNotFoundError:
        return Notes()


def change_notes(directory: Path, changes: Any) -> Notes:
    """Change some of the notes of a run, and return all.

    Args:
        directory: the directory of the run.
        changes: new values by the names of the fields of `Notes`.

    Raises:
        ConfigError: a name or value is wrong.
        RunError: the directory may not be written, its disk is full, or the file is damaged.
    """
    try:
        with _alone(directory / FOLDER):
            return _change(directory / FOLDER / FILE, changes)
    except OSError as error:
        raise RunError(
            "notes are kept in the run's directory, which must be writable",
            got=f"{directory}: {error.strerror or error}",
        ) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder; while the block runs, no other thread and no other board changes it."""
    folder.mkdir(exist_ok=True)
    # a run may come from anybody, with a link to a folder of the person who looks at it
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _change(path: Path, changes: Any) -> Notes:
    try:
        old = msgspec.to_builtins(_read(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            "notes that are there must be readable, or they would be lost",
            got=f"{path}: {error}",
            fix="repair or remove the file",
        ) from None
    try:
        notes = msgspec.convert(old | msgspec.convert(changes, type=dict[str, Any]), type=Notes)
    except msgspec.ValidationError as error:
        raise ConfigError("a run's notes must have the right form", got=str(error)) from None
    tags = tuple(dict.fromkeys(tag.strip() for tag in notes.tags if tag.strip()))
    notes = msgspec.structs.replace(notes, tags=tags)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(notes), indent=2) + b"\n")
    return notes
