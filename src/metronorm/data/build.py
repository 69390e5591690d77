"""Split the documents, make the tokenizer, encode the text in blocks and write the token files.

Files of plain text are read where they lie. If there are rows or compressed files among them, all
texts are first written to one file (`rows`), which is removed at the end. Memory does not grow with
the text: a few MiB of it are in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from metronorm.data.bpe_sample import SAMPLE_BYTES, learnable_bytes
from metronorm.data.bpe_tokenizer import train_bpe
from metronorm.data.char_tokenizer import CharTokenizer, code_points, joined
from metronorm.data.corpus import HELD_OUT_PLAYS, find_corpus, without_copies
from metronorm.data.ledger import Ledger
from metronorm.data.progress import progress, waiting
from metronorm.data.row_split import HELD_OUT_COPIES, split_rows
from metronorm.data.rows import read_rows
from metronorm.data.sources import COPIES, EMPTY
from metronorm.data.spans import bytes_of, pieces_of, sampled
from metronorm.data.split import hold_out
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import DataError
from metronorm.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from metronorm.data.bpe_tokenizer import BPETokenizer
    from metronorm.data.config import TextConfig
    from metronorm.data.corpus import Corpus
    from metronorm.data.spans import Spans
    from metronorm.data.split import Span
    from metronorm.data.tokenizer import Tokenizer

FORMAT = 2
"""Version of the files; it is raised when their content changes. Older folders are built again."""


DOCUMENTS = "documents"
"""The file with the texts of rows, while tokens are made of them."""


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


class Part(msgspec.Struct, frozen=True):
    """What training has of one source, if sources have weights: one stretch of its token file."""

    source: str
    documents: int
    tokens: int


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
    ledger: Ledger | None = None
    """Where every document went; None: an older version has built this."""
    sources: list[str] = []
    """Where the text was found."""
    parts: list[Part] = []
    """Of a mixture, what training has of each source, in their order."""

    @property
    def sha256(self) -> str:
        """SHA-256 that identifies the content of both token files."""
        return hashlib.sha256((self.train.sha256 + self.validation.sha256).encode()).hexdigest()


def fingerprint_of(corpus: Corpus, config: TextConfig) -> str:
    """SHA-256 of everything that the tokens depend on.

    Documents are identified by path, size and modification time.
    """
    options = (FORMAT, *options_of(config, corpus), corpus.is_default)
    digest = hashlib.sha256(repr(options).encode())
    for one in corpus.everything:
        path = one.path.name if one.path == corpus.stdin else one.path  # its name tells its content
        digest.update(f"{path}\0{one.bytes}\0{one.mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def content_of(corpus: Corpus, digests: Sequence[bytes]) -> str:
    """SHA-256 that identifies the documents by name, size and text, whenever they were written.

    Args:
        corpus: the documents.
        digests: SHA-256 of the text of each document, in the same order, those to be held out last.
    """
    digest = hashlib.sha256(repr((FORMAT, corpus.is_default)).encode())
    for one, text in zip(corpus.everything, digests, strict=True):
        digest.update(os.fsencode(one.name) + b"\0%d\0" % one.bytes + text)
    return digest.hexdigest()


def options_of(config: TextConfig, corpus: Corpus) -> tuple[object, ...]:
    """The options that the tokens depend on."""
    vocab_size = config.vocab_size if config.tokenizer == "bpe" else None
    options: tuple[object, ...] = (
        config.tokenizer,
        vocab_size,
        config.validation,
        config.split_seed,
    )
    if config.tokenizer_file:
        content = read_regular(Path(config.tokenizer_file))
        options = (*options, hashlib.sha256(content).hexdigest())
    # named only where they count: what older versions have built keeps its name
    if corpus.has_rows:
        options = (*options, "column", config.column)
    if config.weights:  # whatever they are: the tokens of the sources are apart
        options = (*options, "apart", config.data)
    if config.near_duplicates:
        options = (*options, "near", config.near_duplicates)
    if corpus.validation:
        options = (*options, "validation", len(corpus.documents), config.validation_data)
    return options


def build(aside: Path, corpus: Corpus, config: TextConfig, digests: Sequence[bytes]) -> Meta:
    """Write the token files, the tokenizer and `meta.json` into the folder `aside`.

    Args:
        aside: an empty folder.
        corpus: the documents.
        config: how the documents become tokens.
        digests: SHA-256 of the text of each document, in the same order, those to be held out last.

    Raises:
        DataError: the text cannot be used, or it changes while it is read.
        MissingDependencyError: a package is needed to read a file, or to make the tokenizer.
        OSError: the disk is full, or the folder cannot be written.
    """
    sides = _sides(aside, corpus, config, digests)
    tokenizer: Tokenizer
    if config.tokenizer_file:
        tokenizer = load_tokenizer(Path(config.tokenizer_file))
    elif config.tokenizer == "char":
        tokenizer = CharTokenizer(_distinct_characters([*sides.train, sides.validation]))
    else:
        tokenizer = _train_bpe(sides.train, config.vocab_size)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    tokenizer.save(aside / "tokenizer.json")
    train, parts = _write_tokens(aside / "train.bin", sides.train, tokenizer, dtype)
    validation, _ = _write_tokens(aside / "validation.bin", [sides.validation], tokenizer, dtype)
    for split in (train, validation):
        if not split.tokens:
            raise DataError(
                "a corpus must contain text for training and for validation",
                got=f"no text in {split.documents} of the documents",
                fix="add text",
            )
    assert sides.ledger.adds_up(train, validation), sides.ledger
    meta = Meta(
        format=FORMAT,
        fingerprint=fingerprint_of(corpus, config),
        tokenizer=config.tokenizer,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        held_out=sides.held_out,
        train=train,
        validation=validation,
        content=content_of(corpus, digests),
        copies=sum(
            sides.ledger.left_out[reason].documents
            for reason in (COPIES, HELD_OUT_COPIES)
            if reason in sides.ledger.left_out
        ),
        ledger=sides.ledger,
        sources=list(config.data),
        parts=[
            Part(source, documents, tokens)
            for source, (documents, tokens) in zip(config.data, parts, strict=True)
        ]
        if config.weights
        else [],
    )
    if fingerprint_of(find_corpus(config, corpus.stdin), config) != meta.fingerprint:
        raise DataError(
            "the documents must stay as they are while they are read",
            got="a change",
            fix="run it again",
        )
    (aside / DOCUMENTS).unlink(missing_ok=True)
    (aside / "meta.json").write_bytes(to_json(meta))
    return meta


class _Sides(NamedTuple):
    """What is written to the token files, where it is from, and what is not written."""

    train: list[Spans]
    validation: Spans
    held_out: list[str]
    ledger: Ledger


def _sides(aside: Path, corpus: Corpus, config: TextConfig, digests: Sequence[bytes]) -> _Sides:
    ledger = Ledger(passed_over={k: n for k, n in corpus.left_out.items() if k != EMPTY})
    empty = corpus.left_out.get(EMPTY, 0)
    ledger.read.add(empty, 0)
    ledger.leave_out(EMPTY, empty)
    if is_plain(corpus, config):
        return _plain_sides(corpus, config, digests, ledger)
    rows = read_rows(aside / DOCUMENTS, corpus, config.column, ledger)
    train, validation, held_out = split_rows(rows, corpus, config, ledger)
    return _Sides(list(train), validation, held_out, ledger)


def _plain_sides(
    corpus: Corpus, config: TextConfig, digests: Sequence[bytes], ledger: Ledger
) -> _Sides:
    documents = without_copies(corpus.documents, digests)
    train, validation = hold_out(
        documents,
        config.validation,
        config.split_seed,
        first=HELD_OUT_PLAYS if corpus.is_default else (),
    )
    everything = sum(one.bytes for one in corpus.documents)
    ledger.read.add(len(corpus.documents), everything)
    copies = len(corpus.documents) - len(documents)
    ledger.leave_out(COPIES, copies, everything - sum(one.bytes for one in documents))
    ledger.cut = len(train) + len(validation) - len(documents)
    return _Sides([train], validation, [_description(span) for span in validation], ledger)


def is_plain(corpus: Corpus, config: TextConfig) -> bool:
    """Whether the documents are files of text, of which a share is held out: read in place."""
    if corpus.validation or config.weights or config.near_duplicates:
        return False
    return all(document.is_plain for document in corpus.everything)


def to_json(meta: Meta) -> bytes:
    """The content of `meta.json`."""
    return msgspec.json.format(msgspec.json.encode(meta))


def _train_bpe(groups: Sequence[Spans], vocab_size: int) -> BPETokenizer:
    sample = [sampled(spans, SAMPLE_BYTES // len(groups)) for spans in groups]
    limit = learnable_bytes(_pieces(sample, "counting words"), vocab_size)
    if limit is not None:
        sample = [sampled(spans, limit // len(groups)) for spans in sample]
    with ExitStack() as until_trained:

        def pieces() -> Iterator[str | None]:  # the library learns after the last piece
            yield from _pieces(sample, "reading the sample")
            until_trained.enter_context(waiting(f"learning {vocab_size:,} tokens"))

        return train_bpe(pieces(), vocab_size)


def _description(span: Span) -> str:
    name = os.fsencode(span.document.name).decode(errors="backslashreplace")
    return name + (f" from byte {span.start}" if span.start else "")


def _write_tokens(
    path: Path, groups: Sequence[Spans], tokenizer: Tokenizer, dtype: str
) -> tuple[Split, list[tuple[int, int]]]:
    """Write a token file; also return the documents and tokens of each group."""
    digest = hashlib.sha256()
    characters = tokens = 0
    parts: list[tuple[int, int]] = []
    characters_per_end = 1 if isinstance(tokenizer, CharTokenizer) else 0  # a line feed

    def counted(pieces: Iterable[str | None]) -> Iterator[str | None]:
        nonlocal characters
        for piece in pieces:
            characters += characters_per_end if piece is None else len(piece)
            yield piece

    with open(path, "wb") as file:
        for spans in groups:
            before = tokens
            pieces = counted(_pieces([spans], f"writing {path.name}"))
            for ids in tokenizer.encode_stream(pieces):
                content = ids.astype(dtype).tobytes()
                file.write(content)
                digest.update(content)
                tokens += len(ids)
            parts.append((len(spans), tokens - before))
    split = Split(
        documents=sum(map(len, groups)),
        bytes=sum(map(bytes_of, groups)),
        characters=characters,
        tokens=tokens,
        sha256=digest.hexdigest(),
    )
    return split, parts


def _pieces(groups: Sequence[Spans], what: str) -> Iterator[str | None]:
    """Read the text of spans in pieces and show the progress; None ends a document."""
    with progress(what, sum(map(bytes_of, groups))) as advance:
        for spans in groups:
            yield from pieces_of(spans, advance)


def _distinct_characters(groups: Sequence[Spans]) -> str:
    """All characters of the text, each once, sorted by code point."""
    seen = np.zeros(sys.maxunicode + 1, dtype=np.bool_)
    seen[ord("\n")] = True
    for text in joined(_pieces(groups, "collecting characters"), ""):
        seen[code_points(text)] = True
    return "".join(map(chr, np.flatnonzero(seen).tolist()))
