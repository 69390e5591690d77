"""Split documents into training and validation, if possible without cutting a document."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metronorm.data.corpus import Document
from metronorm.data.reading import cut_near
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """The bytes from `start` up to `stop` of a document."""

    document: Document
    start: int
    stop: int


def hold_out(
    documents: Sequence[Document], share: float, seed: int, first: Container[str] = ()
) -> tuple[list[Span], list[Span]]:
    """Split documents into training and validation, deterministically.

    1. Documents are held out whole, in the order of a hash of seed and name, until they have 0.9 of
       the share. A document that would make it more than 1.1 of the share is skipped.
    2. If every document is too large for that, the smallest one is held out, unless it is more than
       twice the share.
    3. If less than half of the share is held out then, the end of the largest other document is
       added. It is cut at a line feed near the goal, otherwise at a space, otherwise between two
       characters.

    Args:
        documents: documents without copies, so that no text is both held out and in training.
        share: share of the bytes to hold out, above 0 and at most 0.5.
        seed: number that chooses the documents.
        first: names of the documents to hold out before all others, whatever the seed.

    Returns:
        The spans for training and those for validation, neither empty, in the order of the
        documents; the two parts of a document that is cut come last.

    Raises:
        DataError: a document cannot be read, or the text is so short that less than half of the
            share, or more than twice the share, would be held out.
    """

    def order(document: Document) -> tuple[bool, bytes]:
        named = f"{seed}:".encode() + os.fsencode(document.name)
        return document.name not in first, hashlib.sha256(named).digest()

    ordered = sorted(documents, key=order)
    size = sum(document.bytes for document in documents)
    places = choose_whole([document.bytes for document in ordered], share * size)
    held = {ordered[place].path for place in places}
    validation = [Span(one, 0, one.bytes) for one in documents if one.path in held]
    training = [Span(one, 0, one.bytes) for one in documents if one.path not in held]
    missing = share * size - _bytes(validation)
    if missing > share * size / 2:
        longest = max(training, key=lambda span: span.stop)
        head, tail = _cut(longest.document, missing)
        training = [*(span for span in training if span is not longest), head]
        validation = [*validation, tail]
    if not share / 2 <= _bytes(validation) / size <= share * 2:
        raise _too_little_text(documents)
    return training, validation


def choose_whole(sizes: Sequence[int] | NDArray[np.int64], goal: float) -> list[int]:
    """Which documents to hold out whole, so that they have about `goal` bytes together.

    Args:
        sizes: of the documents in bytes, in the order in which they are asked.
        goal: bytes to hold out.

    Returns:
        Their places in that order; none, if the smallest has more than twice as many bytes.
    """
    held: list[int] = []
    taken = 0
    for place, size in enumerate(sizes):
        if taken >= 0.9 * goal:
            break
        if taken + size <= 1.1 * goal:
            held.append(place)
            taken += size
    if held or len(sizes) < 2:
        return held
    smallest = int(np.argmin(sizes))
    return [smallest] if sizes[smallest] <= 2 * goal else []


def _cut(document: Document, tail: float) -> tuple[Span, Span]:
    """Cut a document in two; the second part has about `tail` bytes."""
    goal = min(document.bytes - 1, max(1, round(document.bytes - tail)))
    cut = cut_near(document.path, goal, document.bytes, slack=int(0.4 * tail))
    if not 0 < cut < document.bytes:
        raise _too_little_text([document])
    return Span(document, 0, cut), Span(document, cut, document.bytes)


def _bytes(spans: Sequence[Span]) -> int:
    return sum(span.stop - span.start for span in spans)


def _too_little_text(documents: Sequence[Document]) -> DataError:
    size = sum(document.bytes for document in documents)
    return DataError(
        "a corpus must contain enough text for training and for validation",
        got=f"{size} bytes in {documents[0].path}"
        + (f" and {len(documents) - 1} more" if len(documents) > 1 else ""),
        fix="add text",
    )
