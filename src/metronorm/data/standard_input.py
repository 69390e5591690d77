"""Standard input as a source: it is kept in a file of the cache while tokens are made of it."""

from __future__ import annotations

import hashlib
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metronorm.data.compressed import COMPRESSED, open_bytes
from metronorm.data.corpus import STDIN_NAME
from metronorm.data.kinds import sniffed
from metronorm.data.sources import STDIN
from metronorm.errors import ConfigError, DataError
from metronorm.files import scratch_directory
from metronorm.ranks import find_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metronorm.data.config import TextConfig

_BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16


@contextmanager
def kept_stdin(config: TextConfig, folder: Path) -> Iterator[Path | None]:
    """The file with the content of standard input, named after it; None: it is no source.

    Its first bytes tell whether it is text, JSON lines or Parquet, and whether it is compressed.

    Args:
        config: names the sources.
        folder: where to keep it; it is made if it is not there.

    Raises:
        ConfigError: nothing is piped to this process, or several processes would read it.
        DataError: the content is damaged, or there is no room for it.
    """
    if STDIN not in (*config.data, *config.validation_data):
        yield None
        return
    if find_place().world_size > 1:
        raise ConfigError(
            "standard input can be read by one process",
            got=f"{find_place().world_size} processes",
            fix="write it to a file first",
        )
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError(
            "--data - reads what is piped to the command",
            got="a terminal",
            fix="zcat a.jsonl.gz | metronorm prepare --data -",
        )
    try:
        with scratch_directory(folder / "stdin") as scratch:
            try:
                yield _kept(scratch)
            except DataError as error:  # the file is gone when somebody reads this
                file = re.escape(str(scratch)) + r"/\w+(\.\w+)*"
                got = error.got and re.sub(file, STDIN_NAME, error.got)
                raise DataError(error.must, got=got, fix=error.fix) from error
    except OSError as error:
        raise DataError(
            "the cache must be writable and have room for the text",
            got=f"{error.strerror or error} in {folder}",
            fix="free some space, or choose another folder with --cache",
        ) from error


def _kept(folder: Path) -> Path:
    digest, path = hashlib.sha256(), folder / "stdin"
    with open(path, "wb") as file:
        while block := sys.stdin.buffer.read(_BLOCK_BYTES):
            digest.update(block)
            file.write(block)
    with open(path, "rb") as file:
        suffix = sniffed(file.read(_HEAD_BYTES))
    if suffix in COMPRESSED:
        path = path.rename(folder / f"stdin{suffix}")
        with open_bytes(path) as content:
            suffix = sniffed(content.read(_HEAD_BYTES)) + suffix
    return path.rename(folder / f"{digest.hexdigest()[:16]}{suffix}")
