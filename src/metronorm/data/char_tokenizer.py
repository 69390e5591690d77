"""One token per character."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from metronorm.data.tokenizer import checked_ids
from metronorm.errors import ConfigError, DataError
from metronorm.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from metronorm.data.tokenizer import Ids

_CODE_POINTS = 0x110000


class CharTokenizer:
    """One token per character (Unicode code point).

    Args:
        characters: the characters, each once; the position is the id. A line feed is added at the
            end if it is missing: it ends documents.

    Raises:
        ConfigError: a character twice.
    """

    def __init__(self, characters: str) -> None:
        if "\n" not in characters:
            characters += "\n"
        if len(set(characters)) < len(characters):
            twice = [one for one, count in Counter(characters).items() if count > 1]
            raise ConfigError("every character must stand once", got=f"{twice[:8]} more than once")
        self.characters = characters
        self._codes = code_points(characters)
        self._table = np.full(_CODE_POINTS, -1, dtype=np.int32)
        self._table[self._codes] = np.arange(len(characters))
        self.separator = characters.index("\n")

    @property
    def vocab_size(self) -> int:
        """Number of characters."""
        return len(self.characters)

    def encode(self, text: str, *, unknown: str | None = None) -> Ids:
        """Ids of a text, int64 (characters,).

        Args:
            text: any text.
            unknown: a known character that stands for every unknown one.

        Raises:
            DataError: a character that is not in the vocabulary, and no `unknown`.
            ConfigError: `unknown` is not one known character.
        """
        codes = code_points(text)
        ids = self._table[codes]
        missing = ids < 0
        if missing.any():
            if unknown is None:
                names = [f"{chr(code)!r} (U+{code:04X})" for code in np.unique(codes[missing])]
                raise DataError(
                    f"text must consist of the {self.vocab_size} characters of the tokenizer",
                    got=", ".join(names[:8]) + (f" and {len(names) - 8} more" * (len(names) > 8)),
                    fix="leave them out, or a bpe tokenizer, which takes any text",
                )
            if len(unknown) != 1 or unknown not in self.characters:
                raise ConfigError("unknown must be one known character", got=repr(unknown))
            ids[missing] = self.characters.index(unknown)
        return ids.astype(np.int64)

    def encode_stream(self, pieces: Iterable[str | None]) -> Iterator[Ids]:
        """Encode pieces of text; None becomes a line feed."""
        for piece in pieces:
            yield self.encode("\n" if piece is None else piece)

    def decode(self, ids: ArrayLike) -> str:
        """Text of ids. Raises DataError for an id outside the vocabulary."""
        codes = self._codes[checked_ids(ids, self.vocab_size)]
        return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """UTF-8 of the text of ids."""
        return self.decode(ids).encode("utf-8", "surrogatepass")

    def save(self, path: Path) -> None:
        """Write the characters as JSON."""
        content = {"metronorm": "characters", "version": 1, "characters": self.characters}
        write_atomic(path, json.dumps(content, indent=2).encode())


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of a text, uint32 (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
