"""Examples: the tokens of a text and what counts of them, many of them in flat arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray


class Example(NamedTuple):
    """A text to learn to write.

    Attributes:
        ids: int32 (tokens,).
        weights: float32 (tokens,), the weight of predicting each token; 0: it is only read.
        source: the file that it is from.
        line: its line or row there, from 1.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    source: str
    line: int


class Labelled(NamedTuple):
    """A text to classify.

    Attributes:
        ids: int32 (tokens,).
        label: the number of its class.
        source: the file that it is from.
        line: its line or row there, from 1.
    """

    ids: NDArray[np.int32]
    label: int
    source: str
    line: int


@dataclass(frozen=True)
class Texts:
    """The tokens of many texts, one after the other, and where the texts are from.

    Attributes:
        ids: int32 (all tokens,).
        ends: int64 (texts,), the end of each in `ids`.
        files: the files.
        file: int32 (texts,), the number of each one's file.
        lines: int64 (texts,), the line or row of each in its file, from 1.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    files: tuple[str, ...]
    file: NDArray[np.int32]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, int64 (texts,)."""
        return np.diff(self.ends, prepend=0)

    def span(self, number: int) -> slice:
        """Where a text is in the array of all tokens."""
        return slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))

    def where(self, number: int) -> tuple[str, int]:
        """The file and line of a text."""
        return self.files[self.file[number]], int(self.lines[number])

    def tokens_of(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of all tokens belong to the kept texts, bool (all tokens,)."""
        return np.repeat(kept, self.lengths)

    def select(self, kept: NDArray[np.bool_]) -> Texts:
        """The kept texts alone."""
        return Texts(
            self.ids[self.tokens_of(kept)],
            np.cumsum(self.lengths[kept]),
            self.files,
            self.file[kept],
            self.lines[kept],
        )


class Examples(Sequence[Example]):
    """Examples of texts to write: eight bytes per token.

    Args:
        texts: their tokens.
        weights: float32 (all tokens,).
    """

    def __init__(self, texts: Texts, weights: NDArray[np.float32]) -> None:
        self.texts, self.weights = texts, weights

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        span = self.texts.span(number)
        return Example(self.texts.ids[span], self.weights[span], *self.texts.where(number))


class LabelledExamples(Sequence[Labelled]):
    """Examples of texts to classify: four bytes per token.

    Args:
        texts: their tokens.
        labels: int64 (texts,), the numbers of their classes.
    """

    def __init__(self, texts: Texts, labels: NDArray[np.int64]) -> None:
        self.texts, self.labels = texts, labels

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, number: int) -> Labelled: ...
    @overload
    def __getitem__(self, number: slice) -> list[Labelled]: ...
    def __getitem__(self, number: int | slice) -> Labelled | list[Labelled]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        label = int(self.labels[number])
        return Labelled(self.texts.ids[self.texts.span(number)], label, *self.texts.where(number))


def hash_examples(examples: Sequence[Example | Labelled], *others: Any) -> str:
    """SHA-256 of what is trained on: ids, with weights or labels, and whatever else is given."""
    digest = hashlib.sha256(repr(others).encode())
    for example in examples:
        digest.update(len(example.ids).to_bytes(8))
        digest.update(np.ascontiguousarray(example.ids).data)
        if isinstance(example, Example):
            digest.update(np.ascontiguousarray(example.weights).data)
        else:
            digest.update(example.label.to_bytes(8))
    return digest.hexdigest()
