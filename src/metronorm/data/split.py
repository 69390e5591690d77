"""Documents split into training and validation: whole where that comes near the share asked for."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.data.corpus import Document
from metronorm.data.reading import cut_near
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Span:
    """The bytes `start` to `stop` of a document."""

    document: Document
    start: int
    stop: int


def hold_out(
    documents: Sequence[Document], share: float, seed: int, first: Container[str] = ()
) -> tuple[list[Span], list[Span]]:
    """Split documents into training and validation, deterministically.

    Whole documents are taken for validation in the order of a hash of seed and name until nine
    tenths of the share are reached, leaving out those that would carry it more than a tenth above;
    if none is small enough, the smallest one. Where that would be more than twice the share, or
    what was taken is less than half of it, the tail of the largest other document makes up for what
    is missing. Of a single document, that is its tail. It is cut near the goal at a line break,
    else at a space, else between two characters.

    Args:
        documents: without copies, so that nothing held out also stands in training.
        share: of the bytes to hold out, above 0 and at most 0.5.
        seed: chooses the documents.
        first: names of documents to hold out before all others, whatever the seed.

    Returns:
        The training and the validation spans, both never empty, in the order of the documents; the
        head of a document that is cut comes last.

    Raises:
        DataError: a document that cannot be read, or so little text that less than half of the
            share or more than twice as much would be held out.
    """

    def order(document: Document) -> tuple[bool, bytes]:
        named = f"{seed}:".encode() + os.fsencode(document.name)
        return document.name not in first, hashlib.sha256(named).digest()

    ordered = sorted(documents, key=order)
    size = sum(document.bytes for document in documents)
    held = _whole(ordered, share * size)
    validation = [Span(one, 0, one.bytes) for one in documents if one.path in held]
    training = [Span(one, 0, one.bytes) for one in documents if one.path not in held]
    missing = share * size - _bytes(validation)
    if missing > share * size / 2:
        longest = max(training, key=lambda span: span.stop)
        head, tail = _cut(longest.document, missing)
        training = [*(span for span in training if span is not longest), head]
        validation = [*validation, tail]
    if not share / 2 <= _bytes(validation) / size <= share * 2:
        raise _too_little(documents)
    return training, validation


def _whole(ordered: Sequence[Document], goal: float) -> set[Path]:
    """The documents, by their paths, that come near `goal` bytes together."""
    held: set[Path] = set()
    taken = 0
    for document in ordered:
        if taken >= 0.9 * goal:
            break
        if taken + document.bytes <= 1.1 * goal:
            held.add(document.path)
            taken += document.bytes
    smallest = min(ordered, key=lambda document: document.bytes)
    if not held and len(ordered) > 1 and smallest.bytes <= 2 * goal:
        held.add(smallest.path)
    return held


def _cut(document: Document, tail: float) -> tuple[Span, Span]:
    """The head and the tail, of about `tail` bytes, of a document."""
    goal = min(document.bytes - 1, max(1, round(document.bytes - tail)))
    cut = cut_near(document.path, goal, document.bytes, slack=int(0.4 * tail))
    if not 0 < cut < document.bytes:
        raise _too_little([document])
    return Span(document, 0, cut), Span(document, cut, document.bytes)


def _bytes(spans: Sequence[Span]) -> int:
    return sum(span.stop - span.start for span in spans)


def _too_little(documents: Sequence[Document]) -> DataError:
    size = sum(document.bytes for document in documents)
    return DataError(
        "a corpus must hold enough text for training and for validation",
        got=f"{size} bytes in {documents[0].path}"
        + (f" and {len(documents) - 1} more" if len(documents) > 1 else ""),
        fix="add text",
    )
