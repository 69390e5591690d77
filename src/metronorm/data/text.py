"""From text to token files: built once, in constant memory, and memory-mapped from then on.

    dataset = prepare(TextConfig(data=("books/",), tokenizer="bpe"))
    dataset.train, dataset.validation        # memory-mapped token ids, uint16 or uint32
    dataset.tokenizer.decode(dataset.validation[:100])

A folder in the cache holds `train.bin`, `validation.bin` (raw ids, little-endian), `tokenizer.json`
and `meta.json`. It appears in one rename when all is written, under a name that depends on every
file (path, size, modification time) and every option that shaped it, so what is there is complete
and current. Every folder may be deleted at any time; it is built again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from metronorm.data.build import FORMAT, Meta, build, fingerprint_of
from metronorm.data.config import default_cache
from metronorm.data.corpus import find_documents
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import DataError
from metronorm.files import directory_aside, remove_directory, remove_leftovers

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from metronorm.data.config import TextConfig
    from metronorm.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextDataset:
    """A prepared text; its files are opened when they are first used."""

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
        both = self.meta.train.sha256 + self.meta.validation.sha256
        return hashlib.sha256(both.encode()).hexdigest()

    def check_context(self, context: int) -> None:
        """Check that both splits hold at least one window of `context` tokens and its target.

        Raises:
            DataError: one is shorter than `context` + 1 tokens.
        """
        for name, split in (("training", self.meta.train), ("validation", self.meta.validation)):
            if split.tokens < context + 1:
                raise DataError(
                    f"the {name} text must hold at least one context and its target "
                    f"({context} + 1 tokens)",
                    got=f"{split.tokens} tokens of {split.documents} documents",
                    fix="more text, a larger share for it, or a shorter context",
                )

    def _map(self, name: str) -> NDArray[Any]:
        path = self.directory / f"{name}.bin"
        try:
            return np.memmap(path, dtype=self.meta.dtype, mode="r")
        except (OSError, ValueError) as error:
            raise DataError(
                "the token files must be readable", got=f"{path}: {error}", fix="prepare anew"
            ) from error


def prepare(config: TextConfig) -> TextDataset:
    """Turn text into token files, or find them as they were built before.

    A bar is shown on a terminal's stderr when building takes more than a second. The tokenizer
    of characters knows every character of the corpus, held-out text included, and puts a line feed
    after every document; BPE is trained on the training text and puts its separator token there.

    Raises:
        DataError: text that is missing, unreadable, not UTF-8 or too short, or a cache folder that
            cannot be written (a full disk); nothing half-built is left.
        MissingDependencyError: a package that the choice needs is not installed.
    """
    corpus = find_documents(config.data)
    fingerprint = fingerprint_of(corpus, config)
    folder = (config.cache or default_cache()) / "text"
    name = "shakespeare" if corpus.is_default else corpus.documents[0].path.stem[:20]
    target = folder / f"{name}-{config.tokenizer}-{fingerprint[:16]}"
    try:
        there = target.exists()
        ready = _read(target, fingerprint)
        if ready is not None:
            return ready
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        if there:  # yet not read: damaged
            remove_directory(target)
        with directory_aside(target) as aside:
            meta = build(aside, corpus, config)
    except OSError as error:
        ready = _read(target, fingerprint)  # another process was faster
        if ready is not None:
            return ready
        raise DataError(
            "the cache must be writable and have room for the tokens",
            got=f"{error.strerror or error} in {folder}",
            fix="free some space, or choose another folder with --cache",
        ) from error
    return TextDataset(target, meta, reused=False)


def open_dataset(directory: Path) -> TextDataset:
    """Open what `prepare` built.

    Raises:
        DataError: no complete dataset in `directory`.
    """
    dataset = _read(directory, None)
    if dataset is None:
        raise DataError(
            "a dataset must be a folder that metronorm prepare built, and complete",
            got=str(directory),
            fix="metronorm prepare",
        )
    return dataset


def _read(directory: Path, fingerprint: str | None) -> TextDataset | None:
    """The dataset in `directory` if it is complete and has this fingerprint (None: any)."""
    try:
        meta = msgspec.json.decode((directory / "meta.json").read_bytes(), type=Meta)
        width = np.dtype(meta.dtype).itemsize
        whole = (directory / "tokenizer.json").is_file() and all(
            (directory / f"{name}.bin").stat().st_size == split.tokens * width
            for name, split in (("train", meta.train), ("validation", meta.validation))
        )
    except (OSError, msgspec.DecodeError, TypeError):
        return None
    if not whole or meta.format != FORMAT or fingerprint not in (None, meta.fingerprint):
        return None
    return TextDataset(directory, meta)
