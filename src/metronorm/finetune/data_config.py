"""What can be chosen about the data of a fine-tuning. Imports no framework: the help shows it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from metronorm.data.sources import absolute
from metronorm.errors import ConfigError
from metronorm.finetune.columns import named_columns
from metronorm.scalars import as_real, is_integer
from metronorm.train.config import check_choice, check_count

TaskName = Literal["chat", "text", "classify"]
TooLong = Literal["cut", "drop", "refuse"]
Turns = Literal["together", "split"]
Duplicates = Literal["drop", "keep"]
ClassWeights = Literal["none", "balanced"]

LEAST_TOKENS = 8
"""An example may be limited to so many tokens, and no fewer."""


@dataclass(frozen=True)
class DataConfig:
    """The rows to learn from, and how they become examples.

    Paths become absolute (and `~` is expanded), so they name the same files if the process changes
    its folder.

    Raises:
        ConfigError: a value is of a wrong type or outside its range.
    """

    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DATA ...]")] = ()
    """Files or globs of JSONL, JSON, CSV, TSV, Parquet or text, also in .gz or .zst; or folders of
    texts, which to classify have a folder for each label."""
    validation_data: tuple[str, ...] = ()
    """Files or folders to evaluate on, named as DATA is. Nothing: a share of DATA's rows is held
    out."""
    validation: float = 0.1
    """Share of the rows to hold out if no validation_data is named; at most 0.5. 0: none. Copies of
    a row are never on both sides."""
    columns: tuple[str, ...] = ()
    """Names of columns that are not found by themselves: prompt=question completion=answer."""
    max_tokens: int = 0
    """Most tokens of an example. 0: the context of the model."""
    too_long: TooLong = "cut"
    """What becomes of longer examples. cut: the middle of the prompt is left out, never a part of
    an answer (a text without a prompt continues in a further example); drop: the row is dropped;
    refuse: an error."""
    turns: Turns = "together"
    """How a conversation with several answers is trained. together: as one example; split: each
    answer with what came before it, for chat templates that rewrite earlier turns."""
    prompt_weight: float = 0.0
    """Weight of the loss of prompts, from 0 to 1; that of answers is 1."""
    duplicates: Duplicates = "drop"
    """What becomes of a row that repeats an earlier one. It is counted either way."""
    class_weights: ClassWeights = "none"
    """Weight of the loss of each class. balanced: all classes together weigh the same, however many
    rows they have."""
    limit: int = 0
    """Most rows to read of the data, and of the validation data. 0: all."""
    split_seed: int = 0
    """Seed that chooses the rows to hold out."""

    def __post_init__(self) -> None:
        for name in ("data", "validation_data"):
            object.__setattr__(self, name, absolute_paths(name, getattr(self, name)))
        named_columns(self.columns)
        for name, most in (("validation", 0.5), ("prompt_weight", 1)):
            value = as_real(getattr(self, name))
            if value is None or not 0 <= value <= most:
                raise ConfigError(f"{name} must be from 0 to {most}", got=repr(getattr(self, name)))
            object.__setattr__(self, name, value)
        for name in ("max_tokens", "limit"):
            check_count(name, getattr(self, name), 0)
        if 0 < self.max_tokens < LEAST_TOKENS:
            raise ConfigError(
                f"max_tokens must be 0 (the model's context) or at least {LEAST_TOKENS}",
                got=repr(self.max_tokens),
            )
        check_choice("too_long", self.too_long, get_args(TooLong))
        check_choice("turns", self.turns, get_args(Turns))
        check_choice("duplicates", self.duplicates, get_args(Duplicates))
        check_choice("class_weights", self.class_weights, get_args(ClassWeights))
        if not is_integer(self.split_seed):
            raise ConfigError("split_seed must be a whole number", got=repr(self.split_seed))


def absolute_paths(name: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The paths of an option; `~` is expanded, and relative ones begin at the working folder.

    Raises:
        ConfigError: no tuple of paths.
    """
    if isinstance(paths, str | os.PathLike):
        raise ConfigError(
            f"{name} must be a tuple of paths", got=repr(paths), fix=f"({str(paths)!r},)"
        )
    try:
        return tuple(absolute(path) for path in paths)
    except TypeError:
        raise ConfigError(f"{name} must be a tuple of paths", got=repr(paths)) from None
