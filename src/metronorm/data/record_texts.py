"""The texts of the rows of a file: the column that has them, row by row."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from metronorm.data.record_files import (
    csv_records,
    json_records,
    parquet_columns,
    parquet_records,
)
from metronorm.data.refused import RowRefused, shown
from metronorm.errors import DataError, MissingDependencyError
from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from metronorm.data.corpus import Document
    from metronorm.data.record_files import Record

_SHOWN = 30


class ColumnMissing(Exception):  # noqa: N818  (not yet an error: a folder may hold other tables)
    """A file of records does not have the column.

    Attributes:
        error: what to raise if the file was named.
    """

    def __init__(self, column: str, names: Sequence[str], document: Document) -> None:
        listed = ", ".join(printable(shortened(name, 40)) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        first = next((name for name in names if name.casefold() == column.casefold()), None)
        self.error = DataError(
            f"the data must have the column {column!r}",
            got=f"the columns {listed or 'none'}{more} in {document.path}",
            fix=f"--column {first or 'with one of these'}",
        )
        super().__init__(str(self.error))


def texts_of(
    document: Document, column: str, advance: Callable[[int], object]
) -> Iterator[tuple[int, str | RowRefused]]:
    r"""The texts of the rows of a file, each with its line or row, from 1.

    A byte order mark is left out, and `\r\n` becomes `\n`.

    Args:
        document: the file.
        column: the name of the column of the text.
        advance: is called with the number of bytes of the file that were read.

    Raises:
        ColumnMissing: the file, or its first row, does not have the column.
        DataError: the file is damaged.
        MissingDependencyError: a package is needed to read it.
        OSError: the file cannot be read.
    """
    for line, values in _records(document, column, advance):
        if isinstance(values, RowRefused):
            yield line, values
            continue
        value = values.get(column)
        if isinstance(value, str):
            yield line, _normal(value)
        elif value is None:
            yield line, RowRefused(f"nothing in {column!r}")
        else:
            yield line, RowRefused(f"{column!r} is no text", shown(value))


def _normal(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return text.removeprefix("\ufeff")


def _records(document: Document, column: str, advance: Callable[[int], object]) -> Iterator[Record]:
    path, notes = document.path, Counter[str]()
    if document.kind == "parquet":
        yield from _parquet(document, column, advance)
        return
    if document.kind == "arrow":
        yield from _arrow(document, column, advance)
        return
    records = (
        json_records(path, notes, advance)
        if document.kind == "json"
        else csv_records(path, notes, advance, latin_1=False)
    )
    seen = False
    for line, values in records:
        if not seen and isinstance(values, dict):
            seen = True
            if column not in values:
                raise ColumnMissing(column, list(values), document)
        yield line, values


def _parquet(document: Document, column: str, advance: Callable[[int], object]) -> Iterator[Record]:
    names, rows = parquet_columns(document.path)
    if column not in names:
        raise ColumnMissing(column, names, document)
    done = 0
    for row, values in parquet_records(document.path, Counter(), columns=[column]):
        yield row, values
        if row % _ROWS == 0 or row == rows:
            read = document.bytes * row // rows
            advance(read - done)
            done = read


_ROWS = 1000  # between two steps of the progress


def _arrow(document: Document, column: str, advance: Callable[[int], object]) -> Iterator[Record]:
    pyarrow = _pyarrow(document)
    try:
        with pyarrow.OSFile(str(document.path)) as file:
            reader = pyarrow.ipc.open_stream(file)
            if column not in (names := reader.schema.names):
                raise ColumnMissing(column, names, document)
            row = done = 0
            for batch in reader:
                values: list[Any] = batch.column(names.index(column)).to_pylist()
                for value in values:
                    row += 1
                    yield row, {column: value}
                advance(file.tell() - done)
                done = file.tell()
    except (pyarrow.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise DataError(
            "an Arrow file must be whole, and have the format of streams",
            got=f"{document.path}: {error}",
            fix="save the data set again",
        ) from None


def _pyarrow(document: Document) -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "a saved data set is read with the package 'pyarrow'",
            got=f"no such package, and {document.path}",
            fix="pip install 'metronorm[text]', or write it as Parquet: dataset.to_parquet(...)",
        ) from None
    return pyarrow
