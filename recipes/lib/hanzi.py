"""Chinese poems as tokens, and whether a poem keeps to the rules of its form."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.data.poems import han
from metronorm.models.sampling import generator_of, sample_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lib.ngram import NGram

BYTES = 256
LENGTHS = (5, 7)
STOPS = "，。？！；、："
LEVEL, OBLIQUE = "平", "仄"


class Characters:
    """One token per character; a character that is no token is its bytes in UTF-8.

    Args:
        texts: to take the characters from.
        least: how often a character must occur to be a token.

    Attributes:
        end: the token before and after each text.
    """

    end = BYTES

    def __init__(self, texts: Iterable[str], *, least: int = 2) -> None:
        counts = Counter[str]()
        for text in texts:
            counts.update(text)
        self.characters = sorted(one for one, count in counts.items() if count >= least)
        self._ids = {one: BYTES + 1 + number for number, one in enumerate(self.characters)}

    def __len__(self) -> int:
        return BYTES + 1 + len(self.characters)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        ids = self._ids
        found: list[int] = []
        for one in text:
            token = ids.get(one)
            found.extend([token] if token is not None else one.encode("utf-8"))
        return found

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without the end; bytes that are no UTF-8 are replaced by U+FFFD."""
        raw = b"".join(
            bytes([token]) if token < BYTES else self.characters[token - BYTES - 1].encode()
            for token in tokens
            if token != self.end
        )
        return raw.decode("utf-8", "replace")

    def counts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How many characters, and how many Han characters, begin with each token, (tokens,)."""
        begins = [float(not 0x80 <= byte < 0xC0) for byte in range(BYTES)]
        of_han = [float(bool(han(one))) for one in self.characters]
        return (
            np.array([*begins, 0, *[1] * len(of_han)], np.float32),
            np.array([*begins, 0, *of_han], np.float32),
        )

    def stream(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """All texts one after the other, with the end before the first and after each."""
        return np.array(
            [self.end, *chain.from_iterable((*self.encode(text), self.end) for text in texts)]
        )


def rows(tokens: Sequence[int], end: int, context: int) -> Iterator[tuple[list[int], list[int]]]:
    """Inputs and targets with which a model predicts each token of a text, and its end, once.

    Args:
        tokens: of the text.
        end: the token before and after it.
        context: most inputs of a row. A longer text has several rows, each of which begins half a
            context after the one before; targets that were predicted before are -100.
    """
    whole, done = [end, *tokens, end], 0
    for first in range(0, max(1, len(tokens) + 1 - context // 2), max(1, context // 2)):
        targets = whole[first + 1 : first + context + 1]
        yield whole[first : first + len(targets)], [-100] * (done - first) + targets[done - first :]
        done = first + len(targets)


def batches(
    texts: Iterable[Sequence[int]], end: int, context: int, size: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The rows of texts in batches of nearly the same length: inputs and targets, (size, time)."""
    found = sorted((row for text in texts for row in rows(text, end, context)), key=_length)
    return [_padded(found[first : first + size], end) for first in range(0, len(found), size)]


def _length(row: tuple[list[int], list[int]]) -> int:
    return len(row[0])


def _padded(
    found: list[tuple[list[int], list[int]]], end: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    longest = _length(found[-1])
    inputs = [row + [end] * (longest - len(row)) for row, _ in found]
    targets = [row + [-100] * (longest - len(row)) for _, row in found]
    return np.array(inputs), np.array(targets)


def bits(model: NGram, texts: Iterable[str], characters: Characters) -> tuple[float, float]:
    """Bits per character and per Han character of texts, by an n-gram model of their tokens.

    All bits, also those of each end, are divided by the characters; those of the tokens of Han
    characters by these.
    """
    found = [characters.encode(text) for text in texts]
    each = model.bits_of(found)
    tokens = np.array([*chain.from_iterable((*tokens, characters.end) for tokens in found)])
    counted, han_counted = (table[tokens] for table in characters.counts())
    of_han = (han_counted > 0) | (tokens < BYTES)
    return (
        float(each.sum() / counted.sum(dtype=np.float64)),
        float(each[of_han].sum() / han_counted.sum(dtype=np.float64)),
    )


def write(model: Any, characters: Characters, count: int, seed: int) -> list[str]:
    """So many poems, drawn by their probabilities until they end, or are as long as four contexts.

    Args:
        model: a GPT.
        characters: its tokens.
        count: of the poems.
        seed: of the first one; the others count on.
    """
    drawn: list[list[int]] = [[] for _ in range(count)]
    done: set[int] = set()
    for row, token in sample_batch(
        model,
        [[characters.end]] * count,
        max_tokens=4 * model.config.context,
        generators=[generator_of(seed + row) for row in range(count)],
        done=done,
    ):
        if token == characters.end:
            done.add(row)
        elif row not in done:
            drawn[row].append(token)
    return [characters.decode(each) for each in drawn]


class Form(NamedTuple):
    """What was counted in poems; each is a count of poems or of lines.

    Attributes:
        poems: all of them.
        even: poems whose lines are all of five characters or all of seven, and in pairs.
        closes: second lines of the couplets of these.
        level: how many of these end in a character of level tone, of those whose tone is known.
        opens: first lines of their couplets, but for the first.
        oblique: how many of these end in a character of oblique tone.
    """

    poems: int
    even: int
    closes: int
    level: int
    opens: int
    oblique: int

    @property
    def shares(self) -> dict[str, float]:
        """The share of even poems, and those of the right tones at the ends of their lines."""
        return {
            "even": self.even / max(self.poems, 1),
            "level": self.level / max(self.closes, 1),
            "oblique": self.oblique / max(self.opens, 1),
        }


def lines(poem: str) -> list[str]:
    """The lines of a poem, without punctuation."""
    return [line for each in re.split(f"[{STOPS}]", poem) if (line := han(each))]


def is_even(poem: str) -> bool:
    """Whether all lines have five characters, or all have seven, and they come in pairs."""
    sizes = {len(line) for line in lines(poem)}
    return len(sizes) == 1 and min(sizes) in LENGTHS and len(lines(poem)) % 2 == 0


def form(poems: Sequence[str], tones: Mapping[str, str]) -> Form:
    """Count how many poems are even, and the tones at the ends of their lines.

    In the form that the Tang perfected, the second line of a couplet rhymes, mostly in the level
    tone, and the first one, but for that of the first couplet, ends in an oblique tone. Whether
    lines rhyme is not looked at: the poems' package has tones, and no book of rhymes.

    Args:
        poems: with punctuation.
        tones: of characters, as `metronorm.data.poems.tones` gives them.
    """
    even = [lines(poem) for poem in poems if is_even(poem)]
    closes = [tones.get(line[-1]) for each in even for line in each[1::2]]
    opens = [tones.get(line[-1]) for each in even for line in each[2::2]]
    return Form(
        poems=len(poems),
        even=len(even),
        closes=sum(tone is not None for tone in closes),
        level=closes.count(LEVEL),
        opens=sum(tone is not None for tone in opens),
        oblique=opens.count(OBLIQUE),
    )
