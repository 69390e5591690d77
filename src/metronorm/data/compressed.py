"""Files that may be compressed, opened as what is in them: gzip and Zstandard, told by the suffix.

Python 3.14 reads Zstandard by itself; `backports.zstd` is the same module for older versions. Where
it is missing, pyarrow will do.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

COMPRESSED = (".gz", ".zst")

_BUFFER_BYTES = 1 << 18
_IN_PYTHON = "compression.zstd"  # since 3.14


def is_compressed(path: Path) -> bool:
    """Whether the name of a file ends as a compressed one's."""
    return path.suffix.lower() in COMPRESSED


def inner_suffix(path: Path) -> str:
    """The suffix of what is in a file, in small letters: `.jsonl` of `a.jsonl.zst`."""
    return (Path(path.stem) if is_compressed(path) else path).suffix.lower()


@contextmanager
def open_bytes(path: Path, on_read: Callable[[int], object] | None = None) -> Iterator[BinaryIO]:
    """Open a file; what is read of a compressed one is what it holds.

    Args:
        path: the file.
        on_read: is called with the number of bytes that were read of the file itself.

    Raises:
        DataError: a compressed file is torn or damaged.
        MissingDependencyError: nothing here reads Zstandard.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    with io.BufferedReader(_Told(path, on_read), _BUFFER_BYTES) as file:
        if suffix not in COMPRESSED:
            yield file
            return
        opened = gzip.GzipFile(fileobj=file) if suffix == ".gz" else _zstandard(file)
        try:
            with io.BufferedReader(opened, _BUFFER_BYTES) as content:
                yield content
        except Exception as error:
            if not _is_damage(error):
                raise
            raise DataError(
                "a compressed file must be whole",
                got=f"{path}: {error}",
                fix="fetch or write it again",
            ) from error


class _Told(io.FileIO):
    """A file that says how much of it is read."""

    def __init__(self, path: Path, on_read: Callable[[int], object] | None) -> None:
        super().__init__(path)
        self._on_read = on_read

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        if self._on_read is not None and count:
            self._on_read(count)
        return count


def _zstandard(file: BinaryIO) -> Any:
    if sys.version_info >= (3, 14):
        return import_module(_IN_PYTHON).ZstdFile(file)
    try:
        from backports import zstd
    except ImportError:
        return _by_pyarrow(file)
    return zstd.ZstdFile(file)


def _by_pyarrow(file: BinaryIO) -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "reading .zst needs the package 'backports.zstd'",
            got="no such package",
            fix="pip install 'metronorm[text]', or unpack the file: zstd -d",
        ) from None
    return pyarrow.input_stream(file, compression="zstd")


def _is_damage(error: Exception) -> bool:
    """Whether an error says that compressed bytes are no such bytes, or end too early."""
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return True
    # pyarrow raises an OSError without a number
    return type(error).__name__ == "ZstdError" or (type(error) is OSError and error.errno is None)
