"""How the token files are written: documents parted, tokenizer made, text encoded in blocks.

Memory is constant: no more than about a mebibyte of text is held at once.
"""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from tqdm import tqdm

from metronorm.data.bpe_tokenizer import train_bpe
from metronorm.data.char_tokenizer import CharTokenizer, code_points
from metronorm.data.corpus import Span, find_documents, hold_out
from metronorm.data.reading import BLOCK_BYTES, character_start, read_text
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from metronorm.data.config import TextConfig
    from metronorm.data.corpus import Corpus
    from metronorm.data.tokenizer import Tokenizer

FORMAT = 1
"""Counted up when what is written changes: older folders are then built anew."""

BPE_SAMPLE_BYTES = 64 << 20
"""BPE is trained on at most so much of the training text, in blocks spread evenly over it."""

_SAMPLE_BLOCK_BYTES = 1 << 20


class Split(msgspec.Struct, frozen=True):
    """What one token file holds."""

    documents: int
    bytes: int
    """Of the documents on disk."""
    characters: int
    """Of the text; with the tokenizer of characters, the line feeds that end documents too."""
    tokens: int
    """Including those that end documents."""
    sha256: str
    """Of the file."""


class Meta(msgspec.Struct, frozen=True):
    """`meta.json`."""

    format: int
    fingerprint: str
    tokenizer: str
    vocab_size: int
    dtype: str
    held_out: list[str]
    train: Split
    validation: Split


def fingerprint_of(corpus: Corpus, config: TextConfig) -> str:
    """Names everything that shapes the tokens."""
    vocab_size = config.vocab_size if config.tokenizer == "bpe" else None
    options = (FORMAT, config.tokenizer, vocab_size, config.validation, config.split_seed)
    digest = hashlib.sha256(repr((*options, corpus.is_default)).encode())
    for one in corpus.documents:
        digest.update(
            f"{one.path}\0{one.bytes}\0{one.mtime_ns}\0".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def build(aside: Path, corpus: Corpus, config: TextConfig) -> Meta:
    """Write the token files, the tokenizer and `meta.json` into the folder `aside`.

    Raises:
        DataError: text that cannot be used, or that changes meanwhile.
        OSError: the disk is full, or the folder cannot be written.
    """
    fingerprint = fingerprint_of(corpus, config)
    train, validation = hold_out(corpus, config.validation, config.split_seed)
    tokenizer: Tokenizer
    if config.tokenizer == "char":
        tokenizer = CharTokenizer(_characters([*train, *validation]))
    else:
        sample = list(_sample(train, BPE_SAMPLE_BYTES))
        tokenizer = train_bpe(_pieces(sample, "training the tokenizer"), config.vocab_size)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    tokenizer.save(aside / "tokenizer.json")
    meta = Meta(
        format=FORMAT,
        fingerprint=fingerprint,
        tokenizer=config.tokenizer,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        held_out=[_told(span) for span in validation],
        train=_write(aside / "train.bin", train, tokenizer, dtype),
        validation=_write(aside / "validation.bin", validation, tokenizer, dtype),
    )
    for split in (meta.train, meta.validation):
        if not split.tokens:
            raise DataError(
                "a corpus must hold text for training and for validation",
                got=f"no text in {split.documents} of the documents",
                fix="add text",
            )
    if fingerprint_of(find_documents(config.data), config) != fingerprint:
        raise DataError(
            "the documents must stay as they are while they are read",
            got="a change in the middle",
            fix="run it again",
        )
    (aside / "meta.json").write_bytes(msgspec.json.format(msgspec.json.encode(meta)))
    return meta


def _told(span: Span) -> str:
    return span.document.name + (f" from byte {span.start}" if span.start else "")


def _write(path: Path, spans: Sequence[Span], tokenizer: Tokenizer, dtype: str) -> Split:
    digest = hashlib.sha256()
    characters = tokens = 0
    of_an_end = 1 if isinstance(tokenizer, CharTokenizer) else 0  # a line feed is a character

    def counted(pieces: Iterable[str | None]) -> Iterator[str | None]:
        nonlocal characters
        for piece in pieces:
            characters += of_an_end if piece is None else len(piece)
            yield piece

    with open(path, "wb") as file:
        for ids in tokenizer.encode_stream(counted(_pieces(spans, f"writing {path.name}"))):
            content = ids.astype(dtype).tobytes()
            file.write(content)
            digest.update(content)
            tokens += len(ids)
    return Split(
        documents=len(spans),
        bytes=sum(span.stop - span.start for span in spans),
        characters=characters,
        tokens=tokens,
        sha256=digest.hexdigest(),
    )


def _pieces(spans: Sequence[Span], what: str) -> Iterator[str | None]:
    """The text of spans in pieces; None where a document ends."""
    total = sum(span.stop - span.start for span in spans)
    with tqdm(
        total=total,
        desc=what,
        unit="B",
        unit_scale=True,
        delay=1,
        leave=False,
        file=sys.stderr,
        disable=None,  # where stderr is no terminal
    ) as bar:
        for span in spans:
            at = span.start
            for piece in read_text(span.document.path, span.start, span.stop):
                yield piece
                done = min(BLOCK_BYTES, span.stop - at)
                bar.update(done)
                at += done
            if span.stop == span.document.bytes:
                yield None


def _characters(spans: Sequence[Span]) -> str:
    """Every character of the text, sorted."""
    seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    seen[ord("\n")] = True
    for piece in _pieces(spans, "collecting characters"):
        if piece is not None:
            seen[code_points(piece)] = True
    return "".join(map(chr, np.flatnonzero(seen).tolist()))


def _sample(spans: Sequence[Span], limit: int) -> Iterator[Span]:
    """At most about `limit` bytes of spans, in blocks of 1 MiB spread evenly over them."""
    total = sum(span.stop - span.start for span in spans)
    if total <= limit:
        yield from spans
        return
    blocks = -(-total // _SAMPLE_BLOCK_BYTES)
    wanted = max(1, limit // _SAMPLE_BLOCK_BYTES)
    position = 0  # in the text of all spans together
    for span in spans:
        path, size = span.document.path, span.document.bytes
        at = span.start
        while at < span.stop:
            block, inside = divmod(position, _SAMPLE_BLOCK_BYTES)
            stop = min(at + _SAMPLE_BLOCK_BYTES - inside, span.stop)
            if block * wanted // blocks != (block + 1) * wanted // blocks:
                first, last = (character_start(path, edge, size) for edge in (at, stop))
                yield Span(span.document, first, last)
            position += stop - at
            at = stop
