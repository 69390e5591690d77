"""Read UTF-8 text in blocks. A byte that is not UTF-8 is an error that names its place."""

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
_RAW_BYTES = 1 << 20
_BINARY_BYTES = 8192  # a null byte among the first 8192 means that the file is no text
_LONGEST_CHARACTER_BYTES = 4


def read_text(path: Path, start: int, stop: int, *, is_checked: bool = False) -> Iterator[str]:
    r"""Read the text in the bytes `start` to `stop` of a file.

    A byte order mark at the start of the file is skipped, and `\r\n` becomes `\n`.

    Args:
        path: the file.
        start: offset in bytes.
        stop: offset in bytes.
        is_checked: whether the bytes are known to be text, without a byte order mark.

    Yields:
        Text of about 64 KiB.

    Raises:
        DataError: the file cannot be read, is binary, or is not UTF-8; for UTF-8 the message has
            the offset and the line of the first bad byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset = start
    pending = ""  # a carriage return, if the next block may begin with its line feed
    with _open(path) as file:
        file.seek(start)
        while block := file.read(min(BLOCK_BYTES, stop - offset)):
            if offset == 0 and not is_checked:
                _check_not_binary(path, block[:_BINARY_BYTES])
            offset += len(block)
            if offset == len(block) and not is_checked:
                block = block.removeprefix(codecs.BOM_UTF8)
            text = pending + _decode(decoder, block, path, offset, last=offset >= stop)
            pending = "\r" if text.endswith("\r") and offset < stop else ""
            if text := text.removesuffix(pending).replace("\r\n", "\n"):
                yield text
        if text := pending + _decode(decoder, b"", path, offset, last=True):
            yield text


def cut_near(path: Path, goal: int, size: int, *, slack: int) -> int:
    """Find a good place to cut a text, near byte `goal`.

    It is after the first line feed from `goal` on, otherwise after the last one before `goal`, if
    that is at most `slack` bytes away. Otherwise it is found in the same way after a space,
    otherwise at the next start of a character.

    Args:
        path: the file.
        goal: offset in bytes.
        size: size of the file in bytes.
        slack: largest distance of a line feed or space from `goal`, in bytes.

    Returns:
        An offset in bytes; it is below `size` unless the text is shorter than two characters.

    Raises:
        DataError: the file cannot be read.
    """
    with _open(path) as file:
        for byte in (b"\n", b" "):
            after = _find(file, byte, goal, min(goal + slack, size - 1))
            at = _find_last(file, byte, max(0, goal - slack), goal) if after is None else after
            if at is not None:
                return at + 1
    return character_start(path, goal, size)


def _find(file: BinaryIO, byte: bytes, start: int, stop: int) -> int | None:
    """Offset of the first such byte from `start` on and before `stop`."""
    file.seek(start)
    while start < stop and (block := file.read(min(BLOCK_BYTES, stop - start))):
        if (found := block.find(byte)) >= 0:
            return start + found
        start += len(block)
    return None


def _find_last(file: BinaryIO, byte: bytes, start: int, stop: int) -> int | None:
    """Offset of the last such byte from `start` on and before `stop`."""
    while start < stop:
        at = max(start, stop - BLOCK_BYTES)
        file.seek(at)
        if (found := file.read(stop - at).rfind(byte)) >= 0:
            return at + found
        stop = at
    return None


def character_start(path: Path, offset: int, size: int) -> int:
    """Find the first offset from `offset` on where a character starts, otherwise the last before.

    Args:
        path: the file.
        offset: offset in bytes.
        size: size of the file in bytes.

    Raises:
        DataError: the file cannot be read.
    """
    if not 0 < offset < size:
        return offset
    with _open(path) as file:
        first = max(0, offset - _LONGEST_CHARACTER_BYTES)
        file.seek(first)
        around = file.read(offset + _LONGEST_CHARACTER_BYTES - first)
    starts = [first + i for i, byte in enumerate(around) if byte & 0xC0 != 0x80]
    later = [at for at in starts if at >= offset]
    return later[0] if later else starts[-1] if starts else offset


def digest_of(path: Path) -> bytes:
    r"""SHA-256 of a text as `read_text` yields it: without a byte order mark, with `\n` for `\r\n`.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.sha256()
    pending = b""  # a carriage return, if the next block may begin with its line feed
    with _open(path) as file:
        bom = codecs.BOM_UTF8
        file.seek(len(bom) if file.read(len(bom)) == bom else 0)
        while block := file.read(BLOCK_BYTES):
            block = pending + block
            pending = b"\r" if block.endswith(b"\r") else b""
            digest.update(block.removesuffix(pending).replace(b"\r\n", b"\n"))
    digest.update(pending)
    return digest.digest()


def raw_digest_of(path: Path) -> bytes:
    """SHA-256 of the bytes of a file.

    Raises:
        DataError: the file cannot be read.
    """
    with _open(path) as file:
        digest = hashlib.sha256()
        while block := file.read(_RAW_BYTES):
            digest.update(block)
        return digest.digest()


def decoded_blocks(file: BinaryIO, name: str) -> Iterator[str]:
    r"""The text of an open file, read from its beginning to its end, as `read_text` reads one.

    Args:
        file: holds UTF-8, from where it stands.
        name: of the file, for errors.

    Yields:
        Text of about 64 KiB, without a byte order mark and with `\n` for `\r\n`.

    Raises:
        DataError: the content is binary, or is not UTF-8; with the line of the first bad byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    pending = ""
    offset = lines = 0
    while block := file.read(BLOCK_BYTES):
        if not offset:
            _check_not_binary(name, block[:_BINARY_BYTES])
            block = block.removeprefix(codecs.BOM_UTF8)
        waiting = decoder.getstate()[0]
        try:
            text = pending + decoder.decode(block)
        except UnicodeDecodeError as error:
            before = (waiting + block)[: error.start]
            raise _not_utf_8(error, name, lines + before.count(b"\n") + 1) from error
        offset += len(block)
        lines += block.count(b"\n")
        pending = "\r" if text.endswith("\r") else ""
        if text := text.removesuffix(pending).replace("\r\n", "\n"):
            yield text
    try:
        text = pending + decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf_8(error, name, lines + 1) from error
    if text:
        yield text


def _not_utf_8(error: UnicodeDecodeError, name: str, line: int) -> DataError:
    return DataError(
        "a document must be UTF-8 text",
        got=f"byte 0x{error.object[error.start]:02x} in line {line} of {name}: {error.reason}",
        fix="iconv -f latin1 -t utf-8 (or from its encoding), or leave it out",
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(
            "a document must be readable",
            got=f"{path}: {error.strerror}",
            fix="check that it exists and its permissions, or leave it out",
        ) from error


def _check_not_binary(path: Path | str, head: bytes) -> None:
    utf_16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if utf_16 or b"\0" in head:
        raise DataError(
            "a document must be UTF-8 text",
            got=f"{path}, which looks {'like UTF-16' if utf_16 else 'binary (it has null bytes)'}",
            fix="iconv -f utf-16 -t utf-8, or leave it out" if utf_16 else "leave it out",
        )


def _decode(
    decoder: codecs.IncrementalDecoder, block: bytes, path: Path, offset: int, *, last: bool
) -> str:
    """Decode a block that ends at byte `offset` of the file."""
    try:
        return decoder.decode(block, last)
    except UnicodeDecodeError as error:
        # the object begins with what was left of the block before
        at = offset - len(error.object) + error.start
        raise DataError(
            "a document must be UTF-8 text",
            got=f"byte 0x{error.object[error.start]:02x} at offset {at} of {path} "
            f"(line {_line(path, at)}): {error.reason}",
            fix="iconv -f latin1 -t utf-8 (or from its encoding), or leave it out",
        ) from error


def _line(path: Path, offset: int) -> int:
    """Number of the line with byte `offset`, from 1."""
    breaks = 0
    with _open(path) as file:
        while offset > 0 and (block := file.read(min(BLOCK_BYTES, offset))):
            breaks += block.count(b"\n")
            offset -= len(block)
    return breaks + 1
