"""The texts of documents, whatever they came in, one after the other: to read them once."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from metronorm.data.compressed import open_bytes
from metronorm.data.reading import decoded_blocks, read_text
from metronorm.data.record_texts import ColumnMissing, texts_of
from metronorm.data.refused import RowRefused
from metronorm.data.rows import EMPTY_ROWS, NO_COLUMN
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.data.corpus import Document

_log = logging.getLogger("metronorm")


def read_documents(documents: Sequence[Document], column: str) -> Iterator[str | None]:
    """The texts of files and of their rows in pieces; None ends a document.

    Rows without a text are left out, and so are files without the column that are in a folder; a
    warning counts them at the end.

    Args:
        documents: as `find_documents` finds them.
        column: of the text, in files of rows.

    Raises:
        DataError: a file cannot be read, is damaged, not UTF-8, or named and without the column.
        MissingDependencyError: a package is needed to read it.
    """
    left_out: Counter[str] = Counter()
    for document in documents:
        try:
            yield from _texts(document, column, left_out)
        except ColumnMissing as missing:
            if document.named:
                raise missing.error from None
            left_out[f"{NO_COLUMN} {column!r}"] += 1
        except OSError as error:
            raise DataError(
                "every source must be readable",
                got=f"{document.path}: {error.strerror or error}",
                fix="check its permissions, or leave it out",
            ) from error
    if left_out:
        counts = ", ".join(f"{reason}: {count:,}" for reason, count in left_out.items())
        _log.warning("left out of the text: %s", counts)


def _texts(document: Document, column: str, left_out: Counter[str]) -> Iterator[str | None]:
    if document.is_plain:
        yield from read_text(document.path, 0, document.bytes)
        yield None
    elif document.kind == "text":
        with open_bytes(document.path) as file:
            yield from decoded_blocks(file, str(document.path))
        yield None
    else:
        for _, text in texts_of(document, column, lambda _: None):
            if isinstance(text, RowRefused):
                left_out[f"rows: {text.reason}"] += 1
            elif not text or text.isspace():
                left_out[EMPTY_ROWS] += 1
            else:
                yield text
                yield None
