"""A tokenizer with one token per character."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.data.tokenizer import checked_ids, write_huggingface_config
from metronorm.errors import ConfigError, DataError
from metronorm.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from metronorm.data.tokenizer import Ids

_CODE_POINTS = 0x110000
_JOINED_CHARACTERS = 1 << 16


class CharTokenizer:
    """One token per character (Unicode code point).

    Args:
        characters: the known characters, each once; the position of a character is its id. A line
            feed ends documents, so it is added at the end if it is missing.

    Raises:
        ConfigError: a character occurs twice.
    """

    def __init__(self, characters: str) -> None:
        if "\n" not in characters:
            characters += "\n"
        if len(set(characters)) < len(characters):
            twice = [one for one, count in Counter(characters).items() if count > 1]
            raise ConfigError("every character must occur once", got=f"{twice[:8]} more than once")
        self.characters = characters
        self._codes = code_points(characters)
        self._table = np.full(_CODE_POINTS, -1, dtype=np.int32)
        self._table[self._codes] = np.arange(len(characters))
        self.separator = characters.index("\n")

    @property
    def vocab_size(self) -> int:
        """Number of known characters."""
        return len(self.characters)

    def encode(self, text: str, *, unknown: str | None = None) -> Ids:
        """Encode a text to ids, int64 (characters,).

        Args:
            text: the text.
            unknown: a known character to use instead of every unknown one.

        Raises:
            DataError: a character is unknown, and `unknown` is None.
            ConfigError: `unknown` is not one known character.
        """
        codes = code_points(text)
        ids = self._table[codes]
        missing = ids < 0
        if missing.any():
            if unknown is None:
                names = [f"{chr(code)!r} (U+{code:04X})" for code in np.unique(codes[missing])]
                more = f" and {len(names) - 8} more" if len(names) > 8 else ""
                raise DataError(
                    f"text must consist of the {self.vocab_size} characters of the tokenizer",
                    got=", ".join(names[:8]) + more,
                    fix="remove them, or use a bpe tokenizer, which takes any text",
                )
            if len(unknown) != 1 or unknown not in self.characters:
                raise ConfigError("unknown must be one known character", got=repr(unknown))
            ids[missing] = self.characters.index(unknown)
        return ids.astype(np.int64)

    def encode_stream(self, pieces: Iterable[str | None]) -> Iterator[Ids]:
        """Encode pieces of text; None becomes a line feed.

        Yields:
            Ids of some of them, int64 (characters,).

        Raises:
            DataError: a character is unknown.
        """
        for text in joined(pieces, "\n"):
            yield self.encode(text)

    def decode(self, ids: ArrayLike) -> str:
        """Decode ids.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        codes = self._codes[checked_ids(ids, self.vocab_size)]
        return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """Decode ids to UTF-8.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        return self.decode(ids).encode("utf-8", "surrogatepass")

    def save(self, path: Path) -> None:
        """Write the characters to `path`, as JSON.

        Raises:
            OSError: the disk is full or the directory cannot be written; `path` is as it was.
        """
        content = {"metronorm": "characters", "version": 1, "characters": self.characters}
        write_atomic(path, json.dumps(content, indent=2).encode())

    def save_huggingface(self, directory: Path, context: int) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which AutoTokenizer loads.

        It raises an exception for text with unknown characters, as `encode` does.

        Raises:
            OSError: the disk is full or the directory cannot be written.
            DataError: a character is a lone surrogate, which the format cannot express.
        """
        if any("\ud800" <= one <= "\udfff" for one in self.characters):
            raise DataError("a tokenizer for transformers must not have lone surrogates")
        content: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"[\s\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {one: number for number, one in enumerate(self.characters)},
                "unk_token": "<unknown>",  # in no vocabulary of characters
            },
        }
        write_atomic(directory / "tokenizer.json", json.dumps(content, indent=2).encode())
        write_huggingface_config(directory, context, "\n")


def joined(pieces: Iterable[str | None], end: str) -> Iterator[str]:
    """Pieces of text joined to larger ones, with `end` for None: a call for each would be slow."""
    waiting: list[str] = []
    size = 0
    for piece in pieces:
        waiting.append(end if piece is None else piece)
        size += len(waiting[-1])
        if size >= _JOINED_CHARACTERS:
            yield "".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield "".join(waiting)


def code_points(text: str) -> NDArray[np.uint32]:
    """Code points of a text, uint32 (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
