"""UTF-8 text read in blocks, strictly: a bad byte is named, never replaced."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
from typing import TYPE_CHECKING

from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

BLOCK_BYTES = 1 << 16
_BINARY_BYTES = 8192  # a null byte in so many first bytes means: not a text
_LONGEST_CHARACTER_BYTES = 4


def read_text(path: Path, start: int, stop: int) -> Iterator[str]:
    r"""Yield the text in the bytes `start` to `stop` of a file, in blocks of about 64 KiB.

    A byte order mark at the start of the file is skipped, `\r\n` becomes `\n`.

    Raises:
        DataError: a file that cannot be read, is binary, or is not UTF-8 (with the byte's offset
            in the file and its line).
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset = start
    held = ""  # a carriage return that may belong to a line feed in the next block
    with _opened(path) as file:
        file.seek(start)
        while block := file.read(min(BLOCK_BYTES, stop - offset)):
            if offset == 0:
                _check_not_binary(path, block[:_BINARY_BYTES])
            offset += len(block)
            if offset == len(block):
                block = block.removeprefix(codecs.BOM_UTF8)
            text = held + _decoded(decoder, block, path, offset, last=offset >= stop)
            held = "\r" if text.endswith("\r") and offset < stop else ""
            if text := text.removesuffix(held).replace("\r\n", "\n"):
                yield text
        if text := held + _decoded(decoder, b"", path, offset, last=True):
            yield text


def cut_near(path: Path, goal: int, size: int, *, slack: int) -> int:
    """Offset near byte `goal` at which a text is cut with the least harm.

    Just after the first line break from `goal` on, else after the last one before it, at most
    `slack` bytes away; without one, the same for a space; without one, the next start of a
    character. Below `size` unless the text is shorter than two characters.

    Raises:
        DataError: a file that cannot be read.
    """
    with _opened(path) as file:
        for sign in (b"\n", b" "):
            after = _find(file, sign, goal, min(goal + slack, size - 1))
            at = _find_last(file, sign, max(0, goal - slack), goal) if after is None else after
            if at is not None:
                return at + 1
    return character_start(path, goal, size)


def _find(file: BinaryIO, sign: bytes, start: int, stop: int) -> int | None:
    """Where a byte first stands from `start` on and before `stop`."""
    file.seek(start)
    while start < stop and (block := file.read(min(BLOCK_BYTES, stop - start))):
        if (found := block.find(sign)) >= 0:
            return start + found
        start += len(block)
    return None


def _find_last(file: BinaryIO, sign: bytes, start: int, stop: int) -> int | None:
    """Where a byte last stands from `start` on and before `stop`."""
    while start < stop:
        at = max(start, stop - BLOCK_BYTES)
        file.seek(at)
        if (found := file.read(stop - at).rfind(sign)) >= 0:
            return at + found
        stop = at
    return None


def character_start(path: Path, offset: int, size: int) -> int:
    """The first offset from `offset` on where a character starts; if none is left, one before.

    Raises:
        DataError: a file that cannot be read.
    """
    if not 0 < offset < size:
        return offset
    with _opened(path) as file:
        first = max(0, offset - _LONGEST_CHARACTER_BYTES)
        file.seek(first)
        around = file.read(offset + _LONGEST_CHARACTER_BYTES - first)
    starts = [first + i for i, byte in enumerate(around) if byte & 0xC0 != 0x80]
    later = [at for at in starts if at >= offset]
    return later[0] if later else starts[-1] if starts else offset


def digest_of(path: Path) -> bytes:
    r"""SHA-256 of a text as `read_text` gives it: without a byte order mark, `\r\n` being `\n`.

    Raises:
        DataError: a file that cannot be read.
    """
    digest = hashlib.sha256()
    held = b""
    with _opened(path) as file:
        bom = codecs.BOM_UTF8
        file.seek(len(bom) if file.read(len(bom)) == bom else 0)
        while block := file.read(BLOCK_BYTES):
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""
            digest.update(block.removesuffix(held).replace(b"\r\n", b"\n"))
    digest.update(held)
    return digest.digest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(
            "a document must be readable",
            got=f"{path}: {error.strerror}",
            fix="check that it is there and its permissions, or leave it out",
        ) from error


def _check_not_binary(path: Path, head: bytes) -> None:
    utf_16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if utf_16 or b"\0" in head:
        raise DataError(
            "a document must be UTF-8 text",
            got=f"{path}, which looks {'like UTF-16' if utf_16 else 'binary (it has null bytes)'}",
            fix="iconv -f utf-16 -t utf-8, or leave it out" if utf_16 else "leave it out",
        )


def _decoded(
    decoder: codecs.IncrementalDecoder, block: bytes, path: Path, offset: int, *, last: bool
) -> str:
    """Decode a block that ends at `offset` of the file."""
    try:
        return decoder.decode(block, last)
    except UnicodeDecodeError as error:
        at = offset - len(error.object) + error.start  # the object starts with what was held back
        raise DataError(
            "a document must be UTF-8 text",
            got=f"byte 0x{error.object[error.start]:02x} at offset {at} of {path} "
            f"(line {_line(path, at)}): {error.reason}",
            fix="iconv -f latin1 -t utf-8 (or what it is in), or leave it out",
        ) from error


def _line(path: Path, offset: int) -> int:
    """The number of the line that byte `offset` is in, counted from 1."""
    breaks = 0
    with _opened(path) as file:
        while offset > 0 and (block := file.read(min(BLOCK_BYTES, offset))):
            breaks += block.count(b"\n")
            offset -= len(block)
    return breaks + 1
