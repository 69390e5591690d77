"""The records of a file of JSON, CSV or Parquet, each with the line or row where it begins.

CSV is read with Python's own reader: it says at which line each record begins, and goes on after
one that is torn.
"""

from __future__ import annotations

import csv
import re
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.data.refused import RowRefused, shown
from metronorm.data.text_bytes import byte_lines, utf_8_or_latin_1
from metronorm.errors import DataError
from metronorm.text import counted

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Record = tuple[int, dict[str, Any] | RowRefused]

_PARQUET_ROWS = 1000  # at a time
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as Python decodes them
_LONGEST_FIELD = 1 << 28  # characters; a quote that is never closed would take the whole file


def json_records(
    path: Path, notes: Counter[str], on_read: Callable[[int], object] | None = None
) -> Iterator[Record]:
    """The objects of JSON lines, or of one array of objects.

    Blank lines are no records. In an array the number is that of the object.

    Args:
        path: the file.
        notes: what is worth knowing is counted there.
        on_read: is called with the number of bytes that were read of the file.

    Raises:
        DataError: a compressed file is torn or damaged.
        OSError: the file cannot be read.
    """
    lines: Iterator[tuple[int, bytes]]
    lines = (
        (number, line) for number, line in enumerate(byte_lines(path, on_read), 1) if line.strip()
    )
    first = next(lines, None)
    if first is None:
        return
    lines = chain([first], lines)
    if first[1].lstrip().startswith(b"["):
        whole = list(lines)
        try:
            array = b"".join(line for _, line in whole)
            objects = msgspec.json.decode(array, type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            lines = iter(whole)  # each is refused or taken by itself
        else:
            lines = enumerate(map(bytes, objects), 1)
    for number, line in lines:
        yield number, _object(line)


def _object(line: bytes) -> dict[str, Any] | RowRefused:
    try:
        value = msgspec.json.decode(line)
    except UnicodeDecodeError as error:
        return RowRefused("not UTF-8", f"byte 0x{error.object[error.start]:02x} ({error.reason})")
    except (msgspec.DecodeError, RecursionError) as error:
        return RowRefused("not JSON", str(error))
    if not isinstance(value, dict):
        return RowRefused("no JSON object", shown(value))
    return value


def csv_records(
    path: Path,
    notes: Counter[str],
    on_read: Callable[[int], object] | None = None,
    *,
    latin_1: bool = True,
) -> Iterator[Record]:
    """The records of a CSV whose first line names the columns.

    The columns are separated by the one of comma, semicolon, tab and bar that is most frequent in
    the first line. A field in quotes may have line breaks.

    Args:
        path: the file.
        notes: what is worth knowing is counted there.
        on_read: is called with the number of bytes that were read of the file.
        latin_1: whether lines that are not UTF-8 are read as Latin-1; otherwise they are refused.

    Raises:
        OSError: the file cannot be read.
        DataError: two columns have one name; a compressed file is torn or damaged.
    """
    lines = byte_lines(path, on_read)
    first = next(lines, b"")
    delimiter = max(",;\t|", key=first.decode("latin-1").count)

    def text(line: bytes) -> str:
        if latin_1:
            return utf_8_or_latin_1(line, notes, "lines of CSV")
        return line.decode("utf-8", "surrogateescape")  # what is not UTF-8 is refused below

    texts = (text(each).replace("\r\n", "\n") for each in chain([first], lines))
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            with _long_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, RowRefused("not CSV", f"{error}, up to line {reader.line_num}")
            continue
        if not fields:
            continue
        if names is None:
            names = [name.strip() for name in fields]
            if len(set(names)) < len(names):
                raise DataError(
                    "the columns must have different names", got=f"{', '.join(names)} in {path}"
                )
        elif len(fields) != len(names):
            there = f"{counted(len(fields), 'field')} where the first line has {len(names)}"
            yield line, RowRefused("not CSV", there)
        elif any("\0" in field for field in fields):
            yield line, RowRefused("binary, no text", "a null byte")
        elif not latin_1 and (byte := _ESCAPED.search("".join(fields))):
            yield line, RowRefused("not UTF-8", f"byte 0x{ord(byte[0]) & 0xFF:02x}")
        else:
            yield line, dict(zip(names, fields, strict=True))


@contextmanager
def _long_fields() -> Iterator[None]:
    """Texts are longer than the 128 KiB that are usual; the limit is the whole process's."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def parquet_records(
    path: Path, notes: Counter[str], *, columns: Sequence[str] = ()
) -> Iterator[Record]:
    """The rows of a Parquet file.

    Args:
        path: the file.
        notes: what is worth knowing is counted there.
        columns: those to read; none: all.

    Raises:
        DataError: the file is damaged, or no Parquet.
    """
    chosen = ", ".join('"' + name.replace('"', '""') + '"' for name in columns) or "*"
    with _parquet(path, f"SELECT {chosen}") as cursor:
        names = [column[0] for column in cursor.description or ()]
        number = 0
        while rows := cursor.fetchmany(_PARQUET_ROWS):
            for row in rows:
                number += 1
                yield number, dict(zip(names, row, strict=True))


def parquet_columns(path: Path) -> tuple[list[str], int]:
    """The names of the columns of a Parquet file, and the number of its rows.

    Raises:
        DataError: the file is damaged, or no Parquet.
    """
    with _parquet(path, "DESCRIBE SELECT *") as cursor:
        names = [row[0] for row in cursor.fetchall()]
    with _parquet(path, "SELECT count(*)") as cursor:
        return names, cursor.fetchall()[0][0]


@contextmanager
def _parquet(path: Path, select: str) -> Iterator[Any]:
    import duckdb

    name = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(path))  # is no glob
    # each file is read once
    settings: dict[str, str | bool | int | float | list[str]]
    settings = {"threads": 1, "enable_external_file_cache": False}
    try:
        with duckdb.connect(config=settings) as connection:
            yield connection.execute(f"{select} FROM read_parquet(?)", [name])
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            "a Parquet file must be whole", got=f"{path}: {reason}", fix="write it again"
        ) from None
