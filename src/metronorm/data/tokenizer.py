"""Text to token ids and back, without loss: what tokenizers have in common.

`char_tokenizer` has one token per character, `bpe_tokenizer` byte-level byte-pair encoding;
`tokenizer_file` reads what either has saved.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Protocol

import numpy as np

from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    Ids = NDArray[np.int64]


class Tokenizer(Protocol):
    """What every tokenizer can do."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are below it."""

    @property
    def separator(self) -> int:
        """Id of the token that ends a document: a line feed, or `SEPARATOR` of BPE."""

    def encode(self, text: str) -> Ids:
        """Token ids of a text, int64 (tokens,). Raises DataError for what it cannot encode."""

    def encode_stream(self, pieces: Iterable[str | None]) -> Iterator[Ids]:
        """Encode text that comes in pieces cut anywhere; None ends a document (`separator`)."""

    def decode(self, ids: ArrayLike) -> str:
        """Text of token ids. Bytes that are not UTF-8 become U+FFFD; DataError: not its ids."""

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """UTF-8 of token ids; with BPE, any bytes. Raises DataError for ids that are not its."""

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`, atomically."""


def stream_decode(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of ids as they come, each piece as soon as its characters are whole.

    The pieces joined are `tokenizer.decode(ids)`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for one in ids:
        if text := decoder.decode(tokenizer.decode_bytes([one])):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def checked_ids(ids: ArrayLike, vocab_size: int) -> Ids:
    """Ids as int64 (tokens,).

    Raises:
        DataError: no whole numbers, more than one dimension, or an id not below `vocab_size`.
    """
    array = np.atleast_1d(np.asarray(ids))
    if not array.size:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise DataError(
            "token ids must be whole numbers in one dimension",
            got=f"{array.dtype} of shape {array.shape}",
        )
    if array.min() < 0 or array.max() >= vocab_size:
        raise DataError(
            f"token ids must lie from 0 to {vocab_size - 1}",
            got=f"{array.min()} to {array.max()}",
            fix="the tokenizer that the tokens were made with",
        )
    return array.astype(np.int64, copy=False)
