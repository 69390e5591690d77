"""What both tokenizers have in common: they turn text into token ids and back, without loss.

`char_tokenizer` has one token per character, `bpe_tokenizer` has byte-level byte-pair encoding;
`tokenizer_file` reads the saved file of either.
"""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Protocol

import numpy as np

from metronorm.errors import DataError
from metronorm.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    Ids = NDArray[np.int64]


CONFIG_FILE = "tokenizer_config.json"
"""Beside a `tokenizer.json`: which of its tokens ends a text."""


class Tokenizer(Protocol):
    """The interface of every tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of different tokens; every id is below it."""

    @property
    def separator(self) -> int:
        """Id of the token that ends a document: a line feed, or with BPE `SEPARATOR`."""

    def encode(self, text: str) -> Ids:
        """Encode a text to ids, int64 (tokens,).

        Raises:
            DataError: the tokenizer cannot encode the text.
        """

    def encode_stream(self, pieces: Iterable[str | None]) -> Iterator[Ids]:
        """Encode text in pieces cut anywhere; None ends a document and becomes `separator`.

        Yields:
            Ids of a part of the text, int64 (tokens,).

        Raises:
            DataError: the tokenizer cannot encode the text.
        """

    def decode(self, ids: ArrayLike) -> str:
        """Decode ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: an id is outside the vocabulary.
        """

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """Decode ids to UTF-8; the ids of BPE may be any bytes.

        Raises:
            DataError: an id is outside the vocabulary.
        """

    def save(self, path: Path) -> None:
        """Write the tokenizer to `path`, atomically.

        Raises:
            OSError: the disk is full or the directory cannot be written; `path` is as it was.
        """

    def save_huggingface(self, directory: Path, context: int) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which AutoTokenizer loads.

        AutoTokenizer takes a separator that a text spells out for the token; ours never does.

        Args:
            directory: where to write; it exists.
            context: most tokens that the model sees at once.

        Raises:
            OSError: the disk is full or the directory cannot be written.
            DataError: the format cannot express the tokenizer.
        """


def stream_decode(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Decode ids one by one, and yield characters as soon as they are complete.

    All pieces together are `tokenizer.decode(ids)`.

    Raises:
        DataError: an id is outside the vocabulary.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for one in ids:
        if text := decoder.decode(tokenizer.decode_bytes([one])):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def write_huggingface_config(directory: Path, context: int, end: str) -> None:
    """Write the `tokenizer_config.json` that goes with a `tokenizer.json` of `tokenizers`.

    Args:
        directory: where to write.
        context: most tokens that the model sees at once.
        end: text of the token that ends a document.
    """
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": end,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
    }
    write_atomic(directory / CONFIG_FILE, json.dumps(content, indent=2).encode())


def checked_ids(ids: ArrayLike, vocab_size: int) -> Ids:
    """Check ids and convert them to int64 (tokens,).

    Raises:
        DataError: ids are no integers, have more than one dimension, or do not lie from 0 to
            `vocab_size` - 1.
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
            fix="the tokenizer that made the tokens",
        )
    return array.astype(np.int64, copy=False)
