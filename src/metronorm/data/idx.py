"""Idx files, the format of MNIST and its kin: arrays with a header that says type and sizes.

Two zero bytes, one for the type, one for the number of dimensions, the sizes as 32-bit integers,
then the values; all of it big-endian. The format was given by LeCun, Cortes and Burges with MNIST.
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
_MOST_SHRUNK = 1032  # times: what deflate can do at best
_FIX = "fetch the file again; it must be an idx file, or one packed by gzip"


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    length: int  # of the header itself, bytes

    @property
    def bytes(self) -> int:
        """Of the values."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array in an idx file; packed by gzip or not, whatever its name.

    A plain file is mapped, not read: pages come in as they are used. A packed one is unpacked into
    the array itself, without a second copy.

    Args:
        path: of the file.

    Returns:
        A read-only array of the shape and type that the header gives; numbers of more than one byte
        stay big-endian, which numpy computes with as with any other.

    Raises:
        DataError: a file that cannot be read, is no idx file, is damaged, or is shorter or longer
            than its header says.
    """
    path = Path(path)
    try:
        with open(open_regular(path), "rb") as file:
            size = path.stat().st_size
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if not packed:
                return _mapped(path, _header(path, file), size)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _unpacked(path, unpacked, size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            "a packed idx file must be whole", got=f"{path}: {error}", fix=_FIX
        ) from error
    except OSError as error:
        raise DataError(
            "an idx file must be readable",
            got=f"{path}: {error.strerror or error}",
            fix="check that it is there, and its permissions",
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
    except ValueError as error:  # of numpy: too many dimensions, or too large ones beside a 0
        raise DataError(
            "an idx file must have sizes that an array can have",
            got=f"{len(shape)} dimensions in {path}: {error}",
            fix=_FIX,
        ) from error
    return header


def _mapped(path: Path, header: _Header, size: int) -> NDArray[Any]:
    if size != header.length + header.bytes:
        raise _wrong_length(path, *_lengths(header, f"{size - header.length:,} bytes"))
    if not header.bytes:  # nothing can be mapped
        return _read_only(np.empty(header.shape, header.dtype))
    mapped = np.memmap(path, header.dtype, "r", header.length, header.shape or (1,))
    return mapped.reshape(header.shape)


def _unpacked(path: Path, file: gzip.GzipFile, size: int) -> NDArray[Any]:
    header = _header(path, file)
    if header.bytes > _MOST_SHRUNK * size:  # so no such array is asked of the memory
        raise _wrong_length(path, *_lengths(header, f"a file of {size:,} bytes"))
    values = np.empty(header.bytes, np.uint8)
    view = values.data
    done = 0
    while done < header.bytes and (read := file.readinto(view[done : done + (1 << 20)])):
        done += read
    beyond = len(file.read(1))  # also makes gzip check its sum
    if done != header.bytes or beyond:
        raise _wrong_length(path, *_lengths(header, "more" if beyond else f"{done:,} bytes"))
    return _read_only(values.view(header.dtype).reshape(header.shape))


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    values.flags.writeable = False
    return values


def _lengths(header: _Header, there: str) -> tuple[str, str]:
    sizes = " x ".join(map(str, header.shape)) or "one value"
    return f"{sizes} of {header.dtype.name}, {header.bytes:,} bytes", there


def _wrong_length(path: Path, said: str, there: str) -> DataError:
    return DataError(
        "an idx file must be as long as its header says",
        got=f"{path}, which says {said}, and holds {there}",
        fix=_FIX,
    )
