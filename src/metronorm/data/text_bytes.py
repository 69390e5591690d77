"""From bytes to text: UTF-8, or what a byte order mark says, or else Latin-1, which is counted.

Latin-1 is read as Windows does, with quotation marks where Latin-1 has control characters.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from metronorm.data.compressed import open_bytes
from metronorm.data.refused import RowRefused

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from pathlib import Path

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decoded(data: bytes, notes: Counter[str], what: str) -> str:
    r"""The text in these bytes, with `\n` for `\r\n`.

    Args:
        data: all bytes of the text.
        notes: counts what is not UTF-8.
        what: the name of such texts in the notes, in the plural.

    Raises:
        RowRefused: the bytes are no text.
    """
    if data.startswith(_UTF_16):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise RowRefused("damaged UTF-16", str(error)) from None
        notes[f"{what} in UTF-16"] += 1
    elif b"\0" in data:
        raise RowRefused("binary, no text", f"a null byte at offset {data.index(0)}")
    else:
        text = utf_8_or_latin_1(data.removeprefix(codecs.BOM_UTF8), notes, what)
    return text.replace("\r\n", "\n")


def utf_8_or_latin_1(data: bytes, notes: Counter[str], what: str) -> str:
    """The text in these bytes, whatever they are; arguments as of `decoded`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        notes[f"{what} that are not UTF-8, read as Latin-1"] += 1
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:  # five bytes mean nothing in it
        return data.decode("latin-1")


def byte_lines(path: Path, on_read: Callable[[int], object] | None = None) -> Iterator[bytes]:
    """The lines of a file of UTF-8, with their ends and without a byte order mark.

    A file of UTF-16 is converted if it is whole; else its lines are as they are. A compressed one
    is unpacked while it is read.

    Args:
        path: the file.
        on_read: is called with the number of bytes that were read of the file.

    Raises:
        DataError: a compressed file is torn or damaged.
        OSError: the file cannot be read.
    """
    with open_bytes(path, on_read) as file:
        first = file.readline()
        if first.startswith(_UTF_16):
            data = first + file.read()
            try:
                yield from data.decode("utf-16").encode().splitlines(keepends=True)
                return
            except UnicodeError:
                first, *rest = data.splitlines(keepends=True)
                yield first
                yield from rest
                return
        if first := first.removeprefix(codecs.BOM_UTF8):
            yield first
        yield from file
