"""Classical Chinese poems of the Tang and of the Song, and the tones of their characters.

npm's package `chinese-poetry` has 57,607 poems of the Tang and 254,248 of the Song in traditional
script. A paragraph is nearly always a couplet: two lines, a comma between them and a stop at the
end. Poems were copied into each other, and some have two authors: a couplet that an earlier poem
has is left out, so that none is both learned and held out. Nothing is downloaded here.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metronorm.data.packages import npm_folder
from metronorm.errors import ConfigError, DataError
from metronorm.files import read_regular

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

Dynasty = Literal["tang", "song"]

PUNCTUATION = "，。？！；、：「」『』《》〈〉"

_POEMS, _TONES = "dist/quantangshi", "dist/strains/json"
_FILES = {"tang": 58, "song": 255}
_PARTS = 40  # one of them is the test set, and one is for validation
_NOTES = re.compile(r"（[^（）]*）|〖[^〖〗]*〗|\([^()]*\)")
_RESTORED = re.compile(r"\[(.)\]")  # a character that the editors put in for a lost one
# Ideographs of all planes. What is described as a pile of others, or lost, is none of them.
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_CLEAN = re.compile(rf"[{_HAN}{PUNCTUATION}]*[{_HAN}][{_HAN}{PUNCTUATION}]*")
_NO_HAN = re.compile(rf"[^{_HAN}]")
_LEVEL, _OBLIQUE, _SURE = "平", "仄", 0.95


class Poem(NamedTuple):
    """A poem.

    Attributes:
        title: as it is.
        author: as it is.
        couplets: of Han characters and `PUNCTUATION`; one at least.
    """

    title: str
    author: str
    couplets: tuple[str, ...]

    @property
    def text(self) -> str:
        """The couplets, one after the other; each ends in a stop."""
        return "".join(self.couplets)


class Poems(NamedTuple):
    """The poems of a dynasty.

    Attributes:
        train: to learn from.
        validation: about one in forty, to choose by.
        test: about one in forty, to be judged by.
        copies: couplets left out, as an earlier poem has them.
        damaged: couplets left out, as they have lost or described characters or foreign signs.
    """

    train: list[Poem]
    validation: list[Poem]
    test: list[Poem]
    copies: int
    damaged: int


def poems(dynasty: Dynasty, folder: str | os.PathLike[str] | None = None) -> Poems:
    """Read the poems of a dynasty.

    Which part a poem is in is decided by its `id` alone. Editors' notes are cut out.

    Args:
        dynasty: "tang" or "song".
        folder: of the npm package; None: where it is installed.

    Raises:
        ConfigError: another dynasty.
        MissingDependencyError: no folder is given, and the package is not installed.
        DataError: a file is missing or damaged.
    """
    if dynasty not in _FILES:
        raise ConfigError("dynasty must be 'tang' or 'song'", got=repr(dynasty))
    known: dict[str, str] = {}  # of each couplet the first poem that has it
    found = Poems([], [], [], 0, 0)
    copies = damaged = 0
    for entry in _entries(_root(folder) / _POEMS, dynasty):
        kept = []
        for couplet in clean("\n".join(entry["paragraphs"])).splitlines():
            if not _CLEAN.fullmatch(couplet):
                damaged += bool(couplet)
            elif known.setdefault(han(couplet), entry["id"]) != entry["id"]:
                copies += 1
            else:
                kept.append(couplet)
        if kept:
            part = zlib.crc32(entry["id"].encode()) % _PARTS
            where = {0: found.test, 1: found.validation}.get(part, found.train)
            where.append(Poem(entry["title"], entry["author"], tuple(kept)))
    return found._replace(copies=copies, damaged=damaged)


def tones(folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """The tone class of characters in the poems of the Tang: level "平" or oblique "仄".

    The package says of each character in each poem which it is. A character that is not one and the
    same in 95 % of its places is left out: it has several readings, or its class is unknown.

    Args:
        folder: as for `poems`.

    Raises:
        MissingDependencyError: no folder is given, and the package is not installed.
        DataError: a file is missing or damaged.
    """
    root = _root(folder)
    marks = {
        entry["id"]: entry["strains"]
        for entry in _entries(root / _TONES, "tang", texts=("id",), lists=("strains",))
    }
    said: dict[str, Counter[str]] = {}
    for entry in _entries(root / _POEMS, "tang"):
        for line, mark in zip(entry["paragraphs"], marks.get(entry["id"], ()), strict=False):
            if len(line) == len(mark):
                for one, tone in zip(line, mark, strict=True):
                    said.setdefault(one, Counter())[tone] += 1
    return {
        one: tone
        for one, found in said.items()
        for tone in (_LEVEL, _OBLIQUE)
        if found[tone] >= _SURE * found.total() and han(one)
    }


def clean(text: str) -> str:
    """Text without the editors' notes, and without the brackets around what they restored."""
    return _RESTORED.sub(r"\1", _NOTES.sub("", text))


def han(text: str) -> str:
    """The Han characters of a text, without its punctuation."""
    return _NO_HAN.sub("", text)


def _root(folder: str | os.PathLike[str] | None) -> Path:
    return npm_folder("chinese-poetry") if folder is None else Path(folder)


def _entries(
    folder: Path,
    dynasty: str,
    *,
    texts: tuple[str, ...] = ("id", "title", "author"),
    lists: tuple[str, ...] = ("paragraphs",),
) -> Iterator[dict[str, Any]]:
    """What the files of a dynasty hold, in their order."""
    for number in range(_FILES[dynasty]):
        path = folder / f"poet.{dynasty}.{1000 * number}.json"
        try:
            entries = json.loads(read_regular(path))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                "a file of poems must be there, and be JSON",
                got=f"{path}: {error}",
                fix="npm install chinese-poetry; in a checkout of Metronorm: make data",
            ) from None
        for entry in entries if isinstance(entries, list) else [entries]:
            if not _fits(entry, texts, lists):
                raise DataError(
                    f"a poem must have {', '.join((*texts, *lists))}",
                    got=f"{str(entry)[:80]} in {path}",
                )
            yield entry


def _fits(entry: object, texts: tuple[str, ...], lists: tuple[str, ...]) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in texts)
        and all(
            isinstance(entry.get(name), list) and all(isinstance(each, str) for each in entry[name])
            for name in lists
        )
    )
