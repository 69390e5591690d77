"""Byte-level byte-pair encoding (Sennrich et al., 2016; GPT-2's way to part words)."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.data.tokenizer import checked_ids
from metronorm.errors import DataError, MissingDependencyError
from metronorm.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import tokenizers
    from numpy.typing import ArrayLike

    from metronorm.data.tokenizer import Ids

SEPARATOR = "<|endoftext|>"
"""The token of BPE that ends a document. Written out in a text it is ordinary text."""

_LAST_SAFE_CUT = re.compile(r".*\S(?=[ \n])", re.DOTALL)
_LONGEST_PIECE = 1 << 20  # characters without a safe cut that are encoded at once
_AT_ONCE = 1 << 20  # characters that are encoded in parallel

_LONGEST_RUN = 1024
"""Characters of one kind in a row that are learned and encoded as one word. The library takes time
that grows with the square of a word's length; DNA, or Chinese without punctuation, is one word."""

_KINDS = (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)", r"\s")  # GPT-2 parts words where they meet
_RUN = re.compile("|".join(f"{kind}+" for kind in _KINDS))


class BPETokenizer:
    """Byte-level byte-pair encoding: any text, no unknown token (after GPT-2).

    Args:
        tokenizer: of the `tokenizers` library, byte-level, with the special token `SEPARATOR`.

    Raises:
        DataError: a tokenizer of another kind.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        separator = tokenizer.token_to_id(SEPARATOR)
        if type(tokenizer.decoder).__name__ != "ByteLevel" or separator is None:
            raise DataError(
                f"the tokenizer must be byte-level and have the token {SEPARATOR}",
                got=f"{type(tokenizer.model).__name__} with {type(tokenizer.decoder).__name__}",
                fix="a tokenizer.json that metronorm prepare wrote, or GPT-2's",
            )
        tokenizer.encode_special_tokens = True  # a text that spells SEPARATOR must not end itself
        self._tokenizer = tokenizer
        self.separator: int = separator
        self.vocab_size: int = tokenizer.get_vocab_size()
        added = tokenizer.get_added_tokens_decoder()
        byte_of = _byte_of_letter()
        self._bytes = [
            added[i].content.encode()
            if i in added
            else bytes(byte_of[letter] for letter in tokenizer.id_to_token(i) or "")
            for i in range(self.vocab_size)
        ]

    def encode(self, text: str) -> Ids:
        """Ids of a text, int64 (tokens,).

        More than 1,024 letters, digits, signs or spaces in a row are encoded in parts of so many.

        Raises:
            DataError: half a surrogate pair, which no UTF-8 text can hold.
        """
        return _joined(self._encode_all([text]))

    def encode_stream(self, pieces: Iterable[str | None]) -> Iterator[Ids]:
        """Encode pieces of text, as if each document came whole; None becomes the separator.

        Exact where a document has a space or line feed after other text at least once in about
        a million characters; a longer piece is cut. A million characters are held at most.
        """
        end = np.array([self.separator])
        for batch in _batches(_cut_safely(pieces)):
            encoded = iter(self._encode_all([piece for piece in batch if piece is not None]))
            yield _joined(end if piece is None else next(encoded) for piece in batch)

    def decode(self, ids: ArrayLike) -> str:
        """Text of ids; what is not UTF-8 becomes U+FFFD. Raises DataError for ids that are not."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: ArrayLike) -> bytes:
        """The bytes of ids. Raises DataError for an id outside the vocabulary."""
        return b"".join(self._bytes[i] for i in checked_ids(ids, self.vocab_size).tolist())

    def save(self, path: Path) -> None:
        """Write the tokenizer in the format of the `tokenizers` library."""
        write_atomic(path, self._tokenizer.to_str(pretty=True).encode())

    def _encode_all(self, texts: list[str]) -> list[Ids]:
        parts = [list(_cut_runs(text)) for text in texts]
        try:
            encoded = self._tokenizer.encode_batch_fast(
                [part for text in parts for part in text], add_special_tokens=False
            )
        except (TypeError, UnicodeError) as error:
            raise DataError(
                "text must be Unicode without lone surrogates",
                got=str(error),
                fix="text.encode('utf-8', 'replace').decode()",
            ) from error
        ids = (np.array(one.ids, dtype=np.int64) for one in encoded)
        return [_joined(islice(ids, len(text))) for text in parts]


def train_bpe(pieces: Iterable[str | None], vocab_size: int) -> BPETokenizer:
    """Train byte-level BPE: GPT-2's way to part words, deterministic.

    Args:
        pieces: text in pieces cut anywhere; None ends a document.
        vocab_size: the most tokens to learn, the 256 bytes and the separator included. A small
            text gives fewer.

    Raises:
        MissingDependencyError: the package `tokenizers` is not installed.
    """
    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    level = library.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(level.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (part for piece in _cut_safely(pieces) if piece is not None for part in _cut_runs(piece)),
        trainer,
    )
    return BPETokenizer(tokenizer)


def tokenizers_library() -> Any:
    """The package `tokenizers`; raises MissingDependencyError without it."""
    try:
        import tokenizers  # here, because characters do without it
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "BPE needs the package 'tokenizers'",
            got="no such package",
            fix="pip install 'metronorm[train]', or the tokenizer 'char'",
        ) from error
    return tokenizers


def _cut_safely(pieces: Iterable[str | None]) -> Iterator[str | None]:
    """Cut text anew, before a space or line feed that follows a character that is no white space.

    No pre-token of GPT-2 spans such a place, nor looks beyond it.
    """
    held = ""  # has no safe cut in it
    for piece in pieces:
        if piece is not None:
            seen = max(len(held) - 1, 0)
            held += piece
            last = _LAST_SAFE_CUT.match(held, seen)
            cut = last.end() if last else len(held) if len(held) > _LONGEST_PIECE else 0
            if cut:
                yield held[:cut]
                held = held[cut:]
            continue
        if held:
            yield held
        held = ""
        yield None
    if held:
        yield held


def _cut_runs(text: str) -> Iterator[str]:
    """The text, cut after every `_LONGEST_RUN` characters of a run of one kind."""
    start = 0
    if _may_hold_a_long_run(text):
        for run in _RUN.finditer(text):
            for at in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
                yield text[start:at]
                start = at
    yield text[start:]


def _may_hold_a_long_run(text: str) -> bool:
    """Looks at every second stretch of half the length only: a long run covers one of them."""
    half = _LONGEST_RUN // 2
    return any(_RUN.fullmatch(text, at, at + half) for at in range(0, len(text) - half + 1, half))


def _batches(pieces: Iterable[str | None]) -> Iterator[list[str | None]]:
    """Pieces in lists of about `_AT_ONCE` characters (None counts as one)."""
    batch: list[str | None] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece or "\n")
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _joined(parts: Iterable[Ids]) -> Ids:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and up."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
