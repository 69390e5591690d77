"""The text of many documents: spans of files, or of the one file that has all rows."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metronorm.data.bpe_sample import sample_evenly
from metronorm.data.corpus import Document
from metronorm.data.reading import BLOCK_BYTES, read_text
from metronorm.data.split import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO


_SPANS = 1 << 12  # made at a time
_SAMPLED_BYTES = 1 << 20  # as in `bpe_sample`


@dataclass(frozen=True)
class RowSpans:
    """Rows of one file, or parts of them: arrays, because there may be millions."""

    path: Path
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Where the document of each ends; a part of a document may stop before."""

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Span]:
        for start, stop, end in self._numbers():
            yield Span(Document("", self.path, end, 0, is_checked=True), start, stop)

    def _numbers(self) -> Iterator[tuple[int, int, int]]:
        for first in range(0, len(self.starts), _SPANS):
            part = slice(first, first + _SPANS)
            numbers = (each[part].tolist() for each in (self.starts, self.stops, self.ends))
            yield from zip(*numbers, strict=True)

    @property
    def bytes(self) -> int:
        """Of all together."""
        return int((self.stops - self.starts).sum())

    def pieces(self, advance: Callable[[int], object]) -> Iterator[str | None]:
        """The texts in pieces; None ends a document. `advance` is told the bytes of each."""
        with open(self.path, "rb") as file:
            for start, stop, end in self._numbers():
                file.seek(start)
                if stop - start <= BLOCK_BYTES:
                    yield file.read(stop - start).decode()
                else:
                    yield from _long(file, stop - start)
                advance(stop - start)
                if stop == end:
                    yield None

    def sampled(self, limit: int) -> RowSpans:
        """Rows of about `limit` bytes, from blocks spread evenly; all, if they have less."""
        sizes = self.stops - self.starts
        total = int(sizes.sum())
        if total <= limit:
            return self
        blocks = -(-total // _SAMPLED_BYTES)
        wanted = max(1, limit // _SAMPLED_BYTES)
        block = (np.cumsum(sizes) - sizes) // _SAMPLED_BYTES  # in which each begins
        chosen = block * wanted // blocks != (block + 1) * wanted // blocks
        return RowSpans(self.path, self.starts[chosen], self.stops[chosen], self.ends[chosen])


Spans = list[Span] | RowSpans


def bytes_of(spans: Spans) -> int:
    """The bytes of spans together."""
    if isinstance(spans, RowSpans):
        return spans.bytes
    return sum(span.stop - span.start for span in spans)


def sampled(spans: Spans, limit: int) -> Spans:
    """About `limit` bytes of spans, spread evenly; all, if they have less.

    Raises:
        DataError: a document cannot be read.
    """
    if isinstance(spans, RowSpans) and (
        not len(spans) or (spans.stops - spans.starts).max() <= _SAMPLED_BYTES
    ):
        return spans.sampled(limit)
    return list(sample_evenly(list(spans) if isinstance(spans, RowSpans) else spans, limit))


def pieces_of(spans: Spans, advance: Callable[[int], object]) -> Iterator[str | None]:
    """Read the text of spans in pieces; None ends a document.

    Args:
        spans: of documents.
        advance: is called with the bytes that were read.

    Raises:
        DataError: a document cannot be read, or is no text.
    """
    if isinstance(spans, RowSpans):
        yield from spans.pieces(advance)
        return
    for span in spans:
        at = span.start
        document = span.document
        for piece in read_text(
            document.path, span.start, span.stop, is_checked=document.is_checked
        ):
            yield piece
            done = min(BLOCK_BYTES, span.stop - at)
            advance(done)
            at += done
        if span.stop == document.bytes:
            yield None


def _long(file: BinaryIO, size: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    while size > 0:
        block = file.read(min(BLOCK_BYTES, size))
        size -= len(block)
        yield decoder.decode(block, final=size <= 0)
