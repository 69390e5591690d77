"""Texts as words, in batches, with words left out at random."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

_WORD = re.compile(r"[a-z]+|[0-9]+|[£$€%]")
UNKNOWN = 0


class Words:
    """A number for each word: for letters without case, for numbers, and for signs of money.

    Args:
        texts: to take the words from.
        least: in how many texts a word must be; all others are `UNKNOWN`.
    """

    def __init__(self, texts: Iterable[str], *, least: int = 2) -> None:
        counts = Counter[str]()
        for text in texts:
            counts.update({*split(text)})
        self.words = sorted(word for word, count in counts.items() if count >= least)
        self._ids = {word: number for number, word in enumerate(self.words, start=1)}

    def __len__(self) -> int:
        return len(self.words) + 1

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers of a text's words, (words,); a text without words is one unknown word."""
        ids = [self._ids.get(word, UNKNOWN) for word in split(text)]
        return np.array(ids or [UNKNOWN])


def split(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text.lower())


def padded(texts: Sequence[NDArray[np.int64]], longest: int) -> tuple[Any, Any]:
    """The first words of texts: int64 (texts, words), with zeros behind; and how many each has."""
    lengths = np.array([min(len(text), longest) for text in texts])
    tokens = np.zeros((len(texts), lengths.max()), np.int64)
    for row, text, length in zip(tokens, texts, lengths, strict=True):
        row[:length] = text[:length]
    return tokens, lengths


def thinned(keep: float, longest: int) -> Callable[[Any, np.random.Generator], Any]:
    """A transform of batches of texts and labels: words left out, and a part of what is long.

    Args:
        keep: the share of words that stay, each by chance.
        longest: words of a text, at most; where they begin is left to chance.
    """

    def transform(batch: Any, chance: np.random.Generator) -> Any:
        chosen = []
        for text in batch[0]:
            kept = text[chance.random(len(text)) < keep]
            kept = kept if len(kept) else text
            begin = int(chance.integers(max(1, len(kept) - longest + 1)))
            chosen.append(kept[begin : begin + longest])
        return *padded(chosen, longest), np.asarray(batch[1])

    return transform
