"""Spoken words inside packages of Debian: Mandarin syllables, and a game's dialogues in Czech.

`gcin-voice` has 2,358 syllables of two speakers. `fillets-ng-data-cs`, beside the scripts of
`fillets-ng-data`, has 1,702 lines with their text, 1.6 hours. Nothing is downloaded here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metronorm.data.packages import debian_folder
from metronorm.errors import DataError

if TYPE_CHECKING:
    import os

TONES = 5
SPEAKERS = ("3", "5")
LETTERS = " aábcčdďeéěfghiíjklmnňoópqrřsštťuúůvwxyýzž"
"""Space and the letters of Czech: what `letters` leaves of a text."""

_VOICES = "usr/share/gcin-voice/ogg"
_GAME = "usr/share/games/fillets-ng"
_STRING = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    rf"dialogId\({_STRING},\s*{_STRING},\s*{_STRING}\)\s*dialogStr\({_STRING}\)", re.DOTALL
)
_TONE_OF_LAST = {"1": 4, "2": 1, "3": 2, "4": 3}  # a syllable without a digit has the first tone


class Syllable(NamedTuple):
    """A spoken syllable.

    Attributes:
        path: of its sound.
        speaker: one of `SPEAKERS`.
        name: in Zhuyin, without its tone.
        tone: 0 to 3 for the first to the fourth, 4 for the neutral one.
    """

    path: Path
    speaker: str
    name: str
    tone: int


class Line(NamedTuple):
    """A spoken line.

    Attributes:
        path: of its sound.
        level: of the game, which is a story of its own.
        voice: who speaks, by the colour of the text.
        text: in Czech.
        english: what it means.
    """

    path: Path
    level: str
    voice: str
    text: str
    english: str


def mandarin_syllables(folder: str | os.PathLike[str] | None = None) -> list[Syllable]:
    """The syllables of `gcin-voice`, sorted by speaker and name.

    Args:
        folder: with a folder of files SPEAKER.ogg for every syllable; None: that of the package.

    Raises:
        MissingDependencyError: no folder is given, and the package is not installed.
        DataError: the folder has no syllables, or a file of another name.
    """
    root = debian_folder("gcin-voice", _VOICES) if folder is None else Path(folder)
    found = []
    for path in sorted(root.glob("*/*.ogg")):
        name = path.parent.name
        if path.stem not in SPEAKERS:
            raise DataError(
                f"a syllable's sounds must be named by the speakers {' and '.join(SPEAKERS)}",
                got=str(path),
            )
        tone = _TONE_OF_LAST.get(name[-1], 0)
        found.append(Syllable(path, path.stem, name.rstrip("1234"), tone))
    if not found:
        raise DataError("a folder of syllables must have files SYLLABLE/SPEAKER.ogg", got=str(root))
    return sorted(found, key=lambda each: (each.speaker, each.name, each.tone))


def czech_lines(folder: str | os.PathLike[str] | None = None) -> list[Line]:
    """The lines of Fish Fillets that have both a sound and a text, in the order of the scripts.

    Args:
        folder: with the folders `script` and `sound` of the game; None: that of the packages.

    Raises:
        MissingDependencyError: no folder is given, and a package is not installed.
        DataError: there are no lines, or a script is no text in UTF-8.
    """
    if folder is None:
        debian_folder("fillets-ng-data-cs", f"{_GAME}/sound/city/cs")
        root = debian_folder("fillets-ng-data", f"{_GAME}/script").parent
    else:
        root = Path(folder)
    found: dict[Path, Line] = {}
    for script in sorted(root.glob("script/*/dialogs_cs.lua")):
        level = script.parent.name
        try:
            content = script.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError("a script must be text in UTF-8", got=f"{script}: {error}") from None
        for name, voice, english, text in _LINE.findall(content):
            path = root / "sound" / level / "cs" / f"{name}.ogg"
            if text.strip() and path.exists():
                line = Line(path, level, voice, _plain(text), _plain(english))
                found.setdefault(path, line)
    if not found:
        raise DataError("lines must have a script, and sounds that it names", got=f"none in {root}")
    return list(found.values())


def letters(text: str) -> str | None:
    """What is spoken, in `LETTERS` alone: small, punctuation left out, words apart by one space.

    None where it cannot be told: a text with digits or with letters of another alphabet.
    """
    kept = "".join(
        each if each.isalnum() else " " for each in re.sub("['\u2019]", "", text.lower())
    )
    return " ".join(kept.split()) if kept.strip() and set(kept) <= set(LETTERS) else None


def _plain(text: str) -> str:
    """A string of Lua without its escapes."""
    return re.sub(r"\\(.)", r"\1", text)
