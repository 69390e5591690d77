"""Split the documents, make the tokenizer, encode the text in blocks and write the token files.

Memory is constant: at most about 1 MiB of text is in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from metronorm.data.bpe_sample import SAMPLE_BYTES, learnable_bytes, sample_evenly
from metronorm.data.bpe_tokenizer import train_bpe
from metronorm.data.char_tokenizer import CharTokenizer, code_points
from metronorm.data.corpus import HELD_OUT_PLAYS, find_documents, without_copies
from metronorm.data.progress import progress, waiting
from metronorm.data.reading import BLOCK_BYTES, read_text
from metronorm.data.split import hold_out
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import DataError
from metronorm.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from metronorm.data.bpe_tokenizer import BPETokenizer
    from metronorm.data.config import TextConfig
    from metronorm.data.corpus import Corpus
    from metronorm.data.split import Span
    from metronorm.data.tokenizer import Tokenizer

FORMAT = 2
"""Version of the files; it is raised when their content changes. Older folders are built again."""


class Split(msgspec.Struct, frozen=True):
    """The content of one token file."""

    documents: int
    bytes: int
    """Size of the documents on disk."""
    characters: int
    """Characters of the text. The tokenizer of characters also counts the line feeds that end
    documents."""
    tokens: int
    """Tokens, which include those that end documents."""
    sha256: str
    """SHA-256 of the file."""


class Meta(msgspec.Struct, frozen=True):
    """The content of `meta.json`."""

    format: int
    fingerprint: str
    tokenizer: str
    vocab_size: int
    dtype: str
    held_out: list[str]
    train: Split
    validation: Split
    content: str = ""
    """Identifies the documents by their text (`content_of`)."""
    copies: int = 0
    """Number of documents left out because they repeat another."""

    @property
    def sha256(self) -> str:
        """SHA-256 that identifies the content of both token files."""
        return hashlib.sha256((self.train.sha256 + self.validation.sha256).encode()).hexdigest()


def fingerprint_of(corpus: Corpus, config: TextConfig) -> str:
    """SHA-256 of everything that the tokens depend on.

    Documents are identified by path, size and modification time.
    """
    options = (FORMAT, *options_of(config), corpus.is_default)
    digest = hashlib.sha256(repr(options).encode())
    for one in corpus.documents:
        digest.update(
            f"{one.path}\0{one.bytes}\0{one.mtime_ns}\0".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def content_of(corpus: Corpus, digests: Sequence[bytes]) -> str:
    """SHA-256 that identifies the documents by name, size and text, whenever they were written.

    Args:
        corpus: the documents.
        digests: SHA-256 of the text of each document, in the same order.
    """
    digest = hashlib.sha256(repr((FORMAT, corpus.is_default)).encode())
    for one, text in zip(corpus.documents, digests, strict=True):
        digest.update(os.fsencode(one.name) + b"\0%d\0" % one.bytes + text)
    return digest.hexdigest()


def options_of(config: TextConfig) -> tuple[object, ...]:
    """The options that the tokens depend on."""
    vocab_size = config.vocab_size if config.tokenizer == "bpe" else None
    options = (config.tokenizer, vocab_size, config.validation, config.split_seed)
    if not config.tokenizer_file:
        return options
    return *options, hashlib.sha256(read_regular(Path(config.tokenizer_file))).hexdigest()


def build(aside: Path, corpus: Corpus, config: TextConfig, digests: Sequence[bytes]) -> Meta:
    """Write the token files, the tokenizer and `meta.json` into the folder `aside`.

    Args:
        aside: an empty folder.
        corpus: the documents.
        config: how the documents become tokens.
        digests: SHA-256 of the text of each document, in the same order.

    Raises:
        DataError: the text cannot be used, or it changes while it is read.
        MissingDependencyError: the tokenizer is BPE, and the package `tokenizers` is not installed.
        OSError: the disk is full, or the folder cannot be written.
    """
    fingerprint = fingerprint_of(corpus, config)
    documents = without_copies(corpus.documents, digests)
    train, validation = hold_out(
        documents,
        config.validation,
        config.split_seed,
        first=HELD_OUT_PLAYS if corpus.is_default else (),
    )
    tokenizer: Tokenizer
    if config.tokenizer_file:
        tokenizer = load_tokenizer(Path(config.tokenizer_file))
    elif config.tokenizer == "char":
        tokenizer = CharTokenizer(_distinct_characters([*train, *validation]))
    else:
        tokenizer = _train_bpe(train, config.vocab_size)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    tokenizer.save(aside / "tokenizer.json")
    meta = Meta(
        format=FORMAT,
        fingerprint=fingerprint,
        tokenizer=config.tokenizer,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        held_out=[_description(span) for span in validation],
        train=_write_tokens(aside / "train.bin", train, tokenizer, dtype),
        validation=_write_tokens(aside / "validation.bin", validation, tokenizer, dtype),
        content=content_of(corpus, digests),
        copies=len(corpus.documents) - len(documents),
    )
    for split in (meta.train, meta.validation):
        if not split.tokens:
            raise DataError(
                "a corpus must contain text for training and for validation",
                got=f"no text in {split.documents} of the documents",
                fix="add text",
            )
    if fingerprint_of(find_documents(config.data), config) != fingerprint:
        raise DataError(
            "the documents must stay as they are while they are read",
            got="a change",
            fix="run it again",
        )
    (aside / "meta.json").write_bytes(to_json(meta))
    return meta


def to_json(meta: Meta) -> bytes:
    """The content of `meta.json`."""
    return msgspec.json.format(msgspec.json.encode(meta))


def _train_bpe(spans: Sequence[Span], vocab_size: int) -> BPETokenizer:
    sample = list(sample_evenly(spans, SAMPLE_BYTES))
    limit = learnable_bytes(_pieces(sample, "counting words"), vocab_size)
    if limit is not None:
        sample = list(sample_evenly(sample, limit))
    with ExitStack() as until_trained:

        def pieces() -> Iterator[str | None]:  # the library learns after the last piece
            yield from _pieces(sample, "reading the sample")
            until_trained.enter_context(waiting(f"learning {vocab_size:,} tokens"))

        return train_bpe(pieces(), vocab_size)


def _description(span: Span) -> str:
    name = os.fsencode(span.document.name).decode(errors="backslashreplace")
    return name + (f" from byte {span.start}" if span.start else "")


def _write_tokens(path: Path, spans: Sequence[Span], tokenizer: Tokenizer, dtype: str) -> Split:
    digest = hashlib.sha256()
    characters = tokens = 0
    characters_per_end = 1 if isinstance(tokenizer, CharTokenizer) else 0  # a line feed

    def counted(pieces: Iterable[str | None]) -> Iterator[str | None]:
        nonlocal characters
        for piece in pieces:
            characters += characters_per_end if piece is None else len(piece)
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
    """Read the text of spans in pieces and show the progress; None ends a document."""
    with progress(what, sum(span.stop - span.start for span in spans)) as advance:
        for span in spans:
            at = span.start
            for piece in read_text(span.document.path, span.start, span.stop):
                yield piece
                done = min(BLOCK_BYTES, span.stop - at)
                advance(done)
                at += done
            if span.stop == span.document.bytes:
                yield None


def _distinct_characters(spans: Sequence[Span]) -> str:
    """All characters of the text, each once, sorted by code point."""
    seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    seen[ord("\n")] = True
    for piece in _pieces(spans, "collecting characters"):
        if piece is not None:
            seen[code_points(piece)] = True
    return "".join(map(chr, np.flatnonzero(seen).tolist()))
