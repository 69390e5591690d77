"""Choose the part of a text that BPE learns from, so that its memory and time are bounded.

Both grow with the number of distinct words. 64 MiB of English or code have about 2 MiB of distinct
words. Where words hardly repeat (base64, DNA, Chinese clauses), a part of the text is enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from metronorm.data.reading import character_start
from metronorm.data.split import Span

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

SAMPLE_BYTES = 64 << 20
"""BPE is trained on at most this much of the training text."""

_LEAST_DISTINCT_BYTES = 4 << 20  # the library needs 100 bytes for each byte of distinct words
_MOST_DISTINCT_BYTES = 16 << 20
_DISTINCT_BYTES_PER_TOKEN = 512
_BLOCK_BYTES = 1 << 20
_WORD = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+|\s+")  # close to GPT-2's words


def sample_evenly(spans: Collection[Span], limit: int) -> Iterator[Span]:
    """Take about `limit` bytes in blocks spread evenly over the spans; all, if they have less.

    Raises:
        DataError: a document cannot be read.
    """
    total = sum(span.stop - span.start for span in spans)
    if total <= limit:
        yield from spans
        return
    blocks = -(-total // _BLOCK_BYTES)
    wanted = max(1, limit // _BLOCK_BYTES)
    position = 0  # in the joined text of all spans
    for span in spans:
        path, size = span.document.path, span.document.bytes
        at = span.start
        while at < span.stop:
            block, inside = divmod(position, _BLOCK_BYTES)
            stop = min(at + _BLOCK_BYTES - inside, span.stop)
            if block * wanted // blocks != (block + 1) * wanted // blocks:
                first, last = (character_start(path, edge, size) for edge in (at, stop))
                yield Span(span.document, first, last)
            position += stop - at
            at = stop


def learnable_bytes(pieces: Iterable[str | None], vocab_size: int) -> int | None:
    """Count the bytes of a text until it has had as many distinct words as BPE can learn from.

    Args:
        pieces: the text in pieces; None ends a document.
        vocab_size: number of tokens to learn.

    Returns:
        The number of bytes; None: the whole text has fewer distinct words.
    """
    limit = max(_LEAST_DISTINCT_BYTES, _DISTINCT_BYTES_PER_TOKEN * vocab_size)
    limit = min(limit, _MOST_DISTINCT_BYTES)
    words: set[str] = set()
    distinct = read = 0
    for piece in pieces:
        if piece is None:
            continue
        new = set(_WORD.findall(piece)) - words
        words |= new
        distinct += len("".join(new).encode())
        read += len(piece.encode())
        if distinct > limit:
            return read
    return None
