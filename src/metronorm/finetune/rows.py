"""Read rows from files of records and of texts. What cannot be read is a dropped row, no error.

A file is told by its suffix, and unpacked if it is compressed. Of a folder the texts are read; the
first folder below it that a text is in is its label.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metronorm.data.compressed import COMPRESSED, inner_suffix, open_bytes
from metronorm.data.kinds import kind_of
from metronorm.data.record_files import csv_records, json_records, parquet_records
from metronorm.data.refused import RowRefused
from metronorm.data.sources import TEXT_SUFFIXES, find_files
from metronorm.data.text_bytes import decoded
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from metronorm.data.record_files import Record
    from metronorm.finetune.ledger import Ledger

_READERS: dict[str, Callable[[Path, Counter[str]], Iterator[Record]]] = {
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".json": json_records,
    ".csv": csv_records,
    ".tsv": csv_records,
    ".parquet": parquet_records,
}


class Row(NamedTuple):
    """A row.

    Attributes:
        values: by the names of the columns.
        source: the file.
        line: where the row begins: the line of the file, or of Parquet the row, from 1.
    """

    values: dict[str, Any]
    source: str
    line: int


class _File(NamedTuple):
    path: Path
    label: str | None


def read_rows(sources: Sequence[str], ledger: Ledger, *, limit: int = 0) -> Iterator[Row]:
    """Read the rows of the sources, one after the other, and count them in the ledger.

    Args:
        sources: files, folders and globs.
        ledger: counts the rows, and those among them that cannot be read.
        limit: most rows to read; 0: all.

    Raises:
        DataError: a source matches nothing, cannot be read, or is of an unknown kind.
    """
    rows = _rows(_find(sources, ledger.notes), ledger.notes)
    for row, refused in islice(rows, limit or None):
        ledger.rows += 1
        if refused is not None:
            ledger.drop(row, refused)
        else:
            yield row
    if limit and next(rows, None) is not None:
        ledger.notes["sets with more rows than the limit"] += 1


def _rows(files: Sequence[_File], notes: Counter[str]) -> Iterator[tuple[Row, RowRefused | None]]:
    for file in files:
        source = str(file.path)
        try:
            if reader := _READERS.get(inner_suffix(file.path)):
                for line, values in reader(file.path, notes):
                    if isinstance(values, RowRefused):
                        yield Row({}, source, line), values
                    else:
                        yield Row(values, source, line), None
            else:
                yield _text_row(file, source, notes)
        except OSError as error:
            raise DataError(
                "the data must be readable",
                got=f"{source}: {error.strerror}",
                fix="check its permissions, or leave it out",
            ) from error


def _text_row(file: _File, source: str, notes: Counter[str]) -> tuple[Row, RowRefused | None]:
    label = {} if file.label is None else {"label": file.label}
    try:
        with open_bytes(file.path) as opened:
            text = decoded(opened.read(), notes, "texts")
    except RowRefused as refused:
        return Row(label, source, 1), refused
    return Row({"text": text, **label}, source, 1), None


def _find(sources: Sequence[str], notes: Counter[str]) -> list[_File]:
    """The files of the sources, those of a folder or glob sorted, each once."""
    if not sources:
        raise DataError("there must be data", got="no file or folder", fix="--data FILE")
    found: dict[Path, _File] = {}
    left_out: Counter[str] = Counter()
    for source in sources:
        folder = Path(source)
        try:
            files = sorted(find_files(source, left_out))
        except OSError as error:
            raise DataError(
                "the data must be readable",
                got=f"{error.filename}: {error.strerror}",
                fix="check its permissions, or leave it out",
            ) from error
        for path in files:
            below = path.relative_to(folder).parts if folder.is_dir() else ()
            found.setdefault(path.resolve(), _File(path, below[0] if len(below) > 1 else None))
        if not files:
            raise _no_texts(folder)
    notes.update(+left_out)
    for path, _ in found.values():
        kind_of(path)
        if inner_suffix(path) not in (*_READERS, *TEXT_SUFFIXES):
            raise DataError(
                f"a file of data must end in {', '.join((*_READERS, *TEXT_SUFFIXES))}, "
                f"perhaps with {' or '.join(COMPRESSED)} after it",
                got=str(path),
                fix="rename it, or convert it to JSONL",
            )
    return list(found.values())


def _no_texts(folder: Path) -> DataError:
    records = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _READERS)
    names = [str(path) for path in islice(records, 3)]
    return DataError(
        "a folder of data must hold texts",
        got=f"{folder} with {', '.join(names)}" if names else f"{folder} without any",
        fix=f"name the files themselves: {names[0]}" if names else "a file of JSONL",
    )
