"""The texts of rows and of compressed files, written one after the other to a file.

So they are read once, whatever they came in, and can then be chosen, sampled and cut like files of
text. The file lies in the cache while tokens are made; it is as large as the text. In memory a
document takes 32 bytes.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metronorm.data.compressed import open_bytes
from metronorm.data.progress import progress
from metronorm.data.reading import decoded_blocks
from metronorm.data.record_texts import ColumnMissing, texts_of
from metronorm.data.refused import RowRefused
from metronorm.errors import DataError
from metronorm.text import counted, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from metronorm.data.corpus import Corpus, Document
    from metronorm.data.ledger import Ledger

EMPTY_ROWS = "without text"
NO_COLUMN = "files without the column"


@dataclass(frozen=True)
class Rows:
    """Documents whose texts are in one file, one after the other, as UTF-8."""

    path: Path
    sizes: NDArray[np.int64]
    """Of each in bytes."""
    keys: NDArray[np.uint64]
    """Hashes of the texts, (rows, 2)."""
    files: NDArray[np.int32]
    """Of each, the number of its file among those of the corpus, with those to be held out."""

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each begins in the file."""
        return np.cumsum(self.sizes) - self.sizes


def read_rows(path: Path, corpus: Corpus, column: str, ledger: Ledger) -> Rows:
    """Write the texts of all documents of a corpus to a file.

    Args:
        path: the file to write.
        corpus: the documents; those to be held out are read, too.
        column: of the text, in files of records.
        ledger: counts what is read, and what is left out.

    Raises:
        DataError: a file is damaged, not UTF-8 or without the column; or no row has text.
        MissingDependencyError: a package is needed to read a file.
        OSError: the disk is full.
    """
    writer = _Writer(path, ledger)
    total = sum(document.bytes for document in corpus.everything)
    with open(path, "wb") as writer.file, progress("reading", total) as advance:
        for number, document in enumerate(corpus.everything):
            try:
                writer.read(number, document, column, advance)
            except ColumnMissing as missing:
                if document.named:
                    raise missing.error from None
                ledger.passed_over[f"{NO_COLUMN} {column!r}"] = (
                    ledger.passed_over.get(f"{NO_COLUMN} {column!r}", 0) + 1
                )
                writer.missing = writer.missing or missing.error
            except OSError as error:
                if error.filename != str(document.path):
                    raise
                raise DataError(
                    "every source must be readable",
                    got=f"{document.path}: {error.strerror}",
                    fix="check its permissions, or leave it out",
                ) from error
    if not writer.sizes:
        raise writer.nothing(corpus.everything)
    return Rows(
        path,
        np.frombuffer(writer.sizes, dtype=np.int64),
        np.frombuffer(writer.keys, dtype=np.uint64).reshape(-1, 2),
        np.frombuffer(writer.files, dtype=np.int32),
    )


class _Writer:
    def __init__(self, path: Path, ledger: Ledger) -> None:
        self.path, self.ledger = path, ledger
        self.file: Any = None
        self.sizes, self.keys, self.files = array("q"), array("Q"), array("i")
        self.missing: DataError | None = None
        self._example = ""

    def read(
        self, number: int, document: Document, column: str, advance: Callable[[int], object]
    ) -> None:
        if document.kind == "text":
            with open_bytes(document.path, advance) as file:
                blocks = decoded_blocks(file, str(document.path))
                self._add(number, (block.encode() for block in blocks))
            return
        for line, text in texts_of(document, column, advance):
            if isinstance(text, RowRefused):
                self._refuse(document, line, text)
                continue
            try:
                content = text.encode()
            except UnicodeEncodeError as error:
                self._refuse(document, line, RowRefused("not Unicode", error.reason))
                continue
            self._add(number, (b"",) if not text or text.isspace() else (content,), len(content))

    def _add(self, number: int, pieces: Iterable[bytes], read: int | None = None) -> None:
        """Keep a document, unless its pieces are empty; `read` is what it had, if that is more."""
        digest, size = hashlib.blake2b(digest_size=16), 0
        for content in pieces:
            digest.update(content)
            self.file.write(content)
            size += len(content)
        read = size if read is None else read
        self.ledger.read.add(1, read)
        if not size:
            self.ledger.leave_out(EMPTY_ROWS, 1, read)
            return
        self.sizes.append(size)
        self.keys.frombytes(digest.digest())
        self.files.append(number)

    def _refuse(self, document: Document, line: int, refused: RowRefused) -> None:
        self.ledger.read.add(1, 0)
        self.ledger.leave_out(f"rows: {refused.reason}")
        detail = f": {refused.detail}" if refused.detail else ""
        self._example = self._example or f" (as line {line} of {document.path}{detail})"

    def nothing(self, documents: Sequence[Document]) -> DataError:
        """The error of a corpus without any text."""
        if self.missing is not None and not self.ledger.read.documents:
            return self.missing
        reasons = ", ".join(
            f"{reason}: {count.documents:,}" for reason, count in self.ledger.left_out.items()
        )
        names = ", ".join(str(document.path) for document in documents[:3])
        return DataError(
            "a corpus must contain some text",
            got=f"none in {counted(self.ledger.read.documents, 'row')} of "
            f"{printable(shortened(names, 200))}"
            + (f"; {reasons}{self._example}" if reasons else ""),
        )
