"""A prepared text in its folder: token files, tokenizer, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from metronorm.data.build import FORMAT, Meta
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import DataError
from metronorm.files import read_regular

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from metronorm.data.build import Part, Split
    from metronorm.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextDataset:
    """A prepared text. That of `prepare` and `open_dataset` stays readable if it is replaced."""

    directory: Path
    meta: Meta
    reused: bool = True
    """False if `prepare` has just built it."""

    @cached_property
    def train(self) -> NDArray[Any]:
        """Token ids of the training text (tokens,), read-only, memory-mapped."""
        return self._map("train")

    @cached_property
    def validation(self) -> NDArray[Any]:
        """Token ids of the held-out text (tokens,), read-only, memory-mapped."""
        return self._map("validation")

    @property
    def parts(self) -> list[NDArray[Any]]:
        """Of a mixture: token ids of the training text of each source, (tokens,)."""
        ends = np.cumsum([part.tokens for part in self.meta.parts], dtype=np.int64).tolist()
        return [
            self.train[end - part.tokens : end]
            for part, end in zip(self.meta.parts, ends, strict=True)
        ]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of both."""
        return load_tokenizer(self.directory / "tokenizer.json")

    @property
    def characters_per_token(self) -> float:
        """Of the held-out text: the loss per token divided by this is the loss per character."""
        return self.meta.validation.characters / self.meta.validation.tokens

    @property
    def sha256(self) -> str:
        """Names the content of both token files: equal where a resumed run meets the same data."""
        return self.meta.sha256

    def check_context(self, context: int) -> None:
        """Check that both splits hold at least one window of `context` tokens and its target.

        Of a mixture, every source must.

        Raises:
            DataError: one is shorter than `context` + 1 tokens.
        """
        there: list[tuple[str, Split | Part]] = [("training text", self.meta.train)]
        there += [(f"training part of {part.source}", part) for part in self.meta.parts]
        there += [("validation text", self.meta.validation)]
        for name, split in there:
            if split.tokens < context + 1:
                raise DataError(
                    f"the {name} must hold at least one context and its target "
                    f"({context} + 1 tokens)",
                    got=f"{split.tokens} tokens of {split.documents} documents",
                    fix="more text, a larger share for it, or a shorter context",
                )

    def _map(self, name: str) -> NDArray[Any]:
        path = self.directory / f"{name}.bin"
        try:
            return np.memmap(path, dtype=self.meta.dtype, mode="r")
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                "the token files must be readable", got=f"{path}: {error}", fix="prepare anew"
            ) from error


def open_dataset(directory: Path) -> TextDataset:
    """Open what `prepare` built.

    Raises:
        DataError: no complete dataset in `directory`.
    """
    dataset = read_dataset(directory)
    if dataset is None:
        raise DataError(
            "a dataset must be a folder that metronorm prepare built, and complete",
            got=str(directory),
            fix="metronorm prepare",
        )
    return dataset


def read_dataset(directory: Path, *, reused: bool = True) -> TextDataset | None:
    """The dataset in `directory`, its files open, if it is complete."""
    directory = directory.absolute()
    meta = read_meta(directory)
    if meta is None:
        return None
    dataset = TextDataset(directory, meta, reused)
    try:
        whole = all(
            len(tokens) == split.tokens
            for tokens, split in (
                (dataset.train, meta.train),
                (dataset.validation, meta.validation),
            )
        )
        _ = dataset.tokenizer
    except DataError:
        return None
    # (if another process replaced the folder meanwhile, its files may be of two texts)
    return dataset if whole and read_meta(directory) == meta else None


def read_meta(directory: Path) -> Meta | None:
    """What `meta.json` in `directory` says; None if there is none that this version reads."""
    try:
        meta = msgspec.json.decode(read_regular(directory / "meta.json"), type=Meta)
    except (OSError, msgspec.DecodeError):
        return None
    return meta if meta.format <= FORMAT else None
