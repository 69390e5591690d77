"""Read idx files, the format of MNIST: an array after a header with its type and sizes.

All numbers are big-endian. LeCun, Cortes and Burges defined the format with MNIST.

| bytes | content |
| --- | --- |
| 0-1 | zero |
| 2 | type of the values (`TYPES`) |
| 3 | number of dimensions n |
| 4 to 4 + 4n | size of each dimension, uint32 |
| rest | values, the last dimension varies fastest |
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.errors import DataError
from metronorm.files import open_regular

if TYPE_CHECKING:
    import os
    from typing import BinaryIO

    from numpy.typing import NDArray

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_GZIP = b"\x1f\x8b"
_MOST_COMPRESSED = 1032  # bytes that one byte of deflate can stand for, at most
_FIX = "fetch the file again; it must be an idx file, or one compressed by gzip"


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    length: int  # bytes of the header itself

    @property
    def bytes(self) -> int:
        """Size of the values."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read the array of an idx file. The file may be compressed by gzip, whatever its name.

    A plain file is memory-mapped: its pages are read when they are used. A compressed file is
    decompressed into the array, without a second copy.

    Args:
        path: the file.

    Returns:
        A read-only array with the shape and type of the header; values of more than one byte are
        big-endian, as in the file.

    Raises:
        DataError: the file cannot be read, is no idx file, is damaged, or has another length than
            its header requires.
    """
    path = Path(path)
    try:
        with open(open_regular(path), "rb") as file:
            size = path.stat().st_size
            compressed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if not compressed:
                return _map(path, _header(path, file), size)
            with gzip.GzipFile(fileobj=file) as content:
                return _decompress(path, content, size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            "a compressed idx file must be complete", got=f"{path}: {error}", fix=_FIX
        ) from error
    except OSError as error:
        raise DataError(
            "an idx file must be readable",
            got=f"{path}: {error.strerror or error}",
            fix="check that it exists, and its permissions",
        ) from error


def _header(path: Path, file: BinaryIO | gzip.GzipFile) -> _Header:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPES:
        raise DataError(
            "an idx file must begin with two zero bytes and a known type",
            got=f"{start.hex(' ') or 'nothing'} in {path}",
            fix=_FIX,
        )
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise _wrong_length(path, f"{start[3]} dimensions", f"{len(sizes)} bytes of their sizes")
    shape = tuple(int(each) for each in np.frombuffer(sizes, ">u4"))
    header = _Header(np.dtype(TYPES[start[2]]), shape, 4 + len(sizes))
    try:
        np.broadcast_to(np.empty((), header.dtype), shape)
    except ValueError as error:  # too many dimensions, or too large ones next to a 0
        raise DataError(
            "an idx file must have sizes that an array can have",
            got=f"{len(shape)} dimensions in {path}: {error}",
            fix=_FIX,
        ) from error
    return header


def _map(path: Path, header: _Header, size: int) -> NDArray[Any]:
    if size != header.length + header.bytes:
        raise _wrong_length(path, *_lengths(header, f"{size - header.length:,} bytes"))
    if not header.bytes:  # an empty file cannot be mapped
        return _read_only(np.empty(header.shape, header.dtype))
    mapped = np.memmap(path, header.dtype, "r", header.length, header.shape or (1,))
    return mapped.reshape(header.shape)


def _decompress(path: Path, file: gzip.GzipFile, size: int) -> NDArray[Any]:
    header = _header(path, file)
    if header.bytes > _MOST_COMPRESSED * size:  # checked before the memory is allocated
        raise _wrong_length(path, *_lengths(header, f"{size:,} compressed bytes"))
    values = np.empty(header.bytes, np.uint8)
    view = values.data
    done = 0
    while done < header.bytes and (read := file.readinto(view[done : done + (1 << 20)])):
        done += read
    beyond = len(file.read(1))  # at the end gzip checks its checksum
    if done != header.bytes or beyond:
        raise _wrong_length(path, *_lengths(header, "more" if beyond else f"{done:,} bytes"))
    return _read_only(values.view(header.dtype).reshape(header.shape))


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    values.flags.writeable = False
    return values


def _lengths(header: _Header, actual: str) -> tuple[str, str]:
    sizes = " x ".join(map(str, header.shape)) or "one value"
    return f"{sizes} of {header.dtype.name}, {header.bytes:,} bytes", actual


def _wrong_length(path: Path, expected: str, actual: str) -> DataError:
    return DataError(
        "an idx file must have the length that its header requires",
        got=f"{path}: the header requires {expected}, and the file has {actual}",
        fix=_FIX,
    )
