"""From text to token files: built once, in constant memory, and memory-mapped from then on.

    dataset = prepare(TextConfig(data=("books/",), tokenizer="bpe"))
    dataset.train, dataset.validation        # memory-mapped token ids, uint16 or uint32
    dataset.tokenizer.decode(dataset.validation[:100])

A folder in the cache holds `train.bin`, `validation.bin` (raw ids, little-endian), `tokenizer.json`
and `meta.json`. It appears in one rename when all is written, under a name that depends on the
sources and on every option that shaped it; `meta.json` names the documents (path, size,
modification time, and what is in them), so that what is taken is complete and current. Documents
that were only touched are read once and taken as they are; where they have changed, the new tokens
replace the old ones. What no `prepare` has asked for in 30 days is removed when another text is
built. Every folder may be deleted at any time; it is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from metronorm.data.build import build, content_of, fingerprint_of, options_of, to_json
from metronorm.data.config import default_cache
from metronorm.data.corpus import RECORD_SUFFIXES, digests_of, find_documents
from metronorm.data.dataset import open_dataset, read_dataset, read_meta
from metronorm.data.sources import COPIES, EMPTY, NO_TEXT
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
_UNUSED_DAYS_OF_OLD = 365  # the first format did not remember its use; a run may go on with it


def prepare(config: TextConfig, *, sha256: str | None = None) -> TextDataset:
    """Turn text into token files, or find them as they were built before.

    On a terminal's stderr bars show how far it is, elsewhere a line every ten seconds. The
    tokenizer of characters knows every character of the corpus, held-out text included, and puts a
    line feed after every document; BPE is trained on the training text and puts its separator
    token there. What is unusual about the text is logged as a warning: documents, links and special
    files that are left out, and files of records (`.jsonl`, `.csv`, ...), which are read as they
    are.

    Args:
        config: which text, and how it becomes tokens.
        sha256: of the tokens a resumed run needs (`TextDataset.sha256`). Tokens of this name are
            taken from the cache, wherever the text is by now. Without them the text is prepared as
            usual, and the caller must compare.

    Raises:
        DataError: text that is missing, unreadable, not UTF-8 or too short, or a cache folder that
            cannot be written (a full disk); nothing half-built is left.
        MissingDependencyError: a package that the choice needs is not installed.
    """
    folder = (config.cache or default_cache()) / "text"
    if sha256 is not None and (wanted := _find(folder, sha256)):
        return _used(wanted)
    corpus = find_documents(config.data)
    dataset = _prepared(folder / _name(config), corpus, config)
    _warn(corpus, dataset.meta)
    return dataset


def remove_unused(folder: Path, *, now: float) -> None:
    """Remove the datasets in `folder` that no `prepare` asked for in the 30 days before `now`.

    Those of the first format, which did not remember its use, are kept for a year.

    What is mapped by a process of this machine stays readable to it.

    Args:
        folder: of datasets; what is none is left alone.
        now: seconds since the epoch.
    """
    for directory in folder.iterdir():
        with contextlib.suppress(OSError):
            meta = read_meta(directory)
            if meta is None:
                continue
            days = _UNUSED_DAYS if meta.content else _UNUSED_DAYS_OF_OLD
            if now - (directory / "meta.json").stat().st_mtime > days * _DAY_SECONDS:
                remove_directory(directory)
                _log.info("removed %s, unused for %d days", directory, days)


def _prepared(target: Path, corpus: Corpus, config: TextConfig) -> TextDataset:
    """The dataset in `target`, built if it is not there or not current."""
    fingerprint = fingerprint_of(corpus, config)
    if (ready := read_dataset(target)) and ready.meta.fingerprint == fingerprint:
        return _used(ready)
    digests = digests_of(corpus.documents)
    if ready and ready.meta.content == content_of(corpus, digests):  # touched, not changed
        meta = msgspec.structs.replace(ready.meta, fingerprint=fingerprint)
        with contextlib.suppress(OSError):  # in a cache that may only be read: compared again
            write_atomic(target / "meta.json", to_json(meta))
        return _used(ready)
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        remove_unused(folder, now=time.time())
        with directory_aside(target) as aside:
            build(aside, corpus, config, digests)
            if not _is_current(target, fingerprint):  # it may be by now, by another process
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


def _name(config: TextConfig) -> str:
    """Of a dataset's folder: for people to recognize, and for its sources and options alone."""
    first = Path(config.data[0]).stem if config.data else "shakespeare"
    name = re.sub(r"[^\w.-]+", "-", first)[:20].strip("-.") or "text"
    options = repr((config.data, *options_of(config)))
    return f"{name}-{config.tokenizer}-{hashlib.sha256(options.encode()).hexdigest()[:16]}"


def _used(dataset: TextDataset) -> TextDataset:
    """The dataset, remembered as in use."""
    with contextlib.suppress(OSError):
        os.utime(dataset.directory / "meta.json")
    return dataset


def _find(folder: Path, sha256: str) -> TextDataset | None:
    """The dataset of these tokens, if `folder` holds it."""
    with contextlib.suppress(OSError):
        for directory in sorted(folder.iterdir()):
            meta = read_meta(directory)
            if meta and meta.sha256 == sha256 and (dataset := read_dataset(directory)):
                return dataset
    return None


def _is_current(directory: Path, fingerprint: str) -> bool:
    meta = read_meta(directory)
    return meta is not None and meta.fingerprint == fingerprint and bool(read_dataset(directory))


def _warn(corpus: Corpus, meta: Meta) -> None:
    """Log what a user would not expect of the text."""
    records = [suffix for suffix in corpus.suffixes if suffix.lower() in RECORD_SUFFIXES]
    if records:
        _log.warning(
            "files of records are read as plain text, with all braces, quotes and keys (%s); if "
            "only a field of them is meant, write it out first: jq -r .text a.jsonl > a.txt",
            ", ".join(f"{suffix}: {corpus.suffixes[suffix]:,}" for suffix in records),
        )
    unusual = {kind: n for kind, n in corpus.left_out.items() if kind not in (NO_TEXT, EMPTY)}
    if meta.copies:
        unusual[COPIES] = meta.copies
    if unusual:
        _log.warning(
            "left out of the text: %s", ", ".join(f"{kind}: {n:,}" for kind, n in unusual.items())
        )
