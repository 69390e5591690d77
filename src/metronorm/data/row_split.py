"""Choose among rows: which repeat another, which to hold out, which are of which source."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metronorm.data.near_copies import NEAR_COPIES, near_copies
from metronorm.data.reading import cut_near
from metronorm.data.shuffled import mix
from metronorm.data.sources import COPIES
from metronorm.data.spans import RowSpans
from metronorm.data.split import choose_whole
from metronorm.errors import DataError
from metronorm.text import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from metronorm.data.config import TextConfig
    from metronorm.data.corpus import Corpus
    from metronorm.data.ledger import Ledger
    from metronorm.data.rows import Rows

HELD_OUT_COPIES = "copies of documents that are held out"


class Sides(NamedTuple):
    """What rows are for.

    Attributes:
        train: to train on: one for each source if they have weights, otherwise one.
        validation: to be held out.
        held_out: in words, what is held out.
    """

    train: list[RowSpans]
    validation: RowSpans
    held_out: list[str]


def split_rows(rows: Rows, corpus: Corpus, config: TextConfig, ledger: Ledger) -> Sides:
    """Split rows into training and validation, without those that repeat another.

    Of each source that has a weight, its share is held out. Which rows, depends on their texts and
    the seed alone.

    Args:
        rows: the documents.
        corpus: the files that they are from.
        config: the share, or that there are sources to be held out.
        ledger: counts what is left out.

    Raises:
        DataError: there is too little text to hold some out; all of it repeats what is held out.
    """
    named = rows.files >= len(corpus.documents)  # to be held out, as the user named it
    kept = _without_copies(rows, named, ledger)
    if config.near_duplicates:
        there = np.flatnonzero(kept)
        there = np.concatenate([there[named[there]], there[~named[there]]])
        near = near_copies(rows, there, config.near_duplicates)
        ledger.leave_out(NEAR_COPIES, len(near), int(rows.sizes[near].sum()))
        kept[near] = False
    source_of = np.array([one.source for one in corpus.documents] or [0], dtype=np.int64)
    sources = source_of[np.where(named, 0, rows.files)]
    groups = [
        np.flatnonzero(kept & ~named & (sources == number))
        for number in range(len(config.data) if config.weights else 1)
    ]
    if not config.weights:
        groups = [np.flatnonzero(kept & ~named)]
    if corpus.validation:
        validation = np.flatnonzero(kept & named)
        for group in groups:
            if not len(group):
                raise _nothing_left(config, ledger)
        spans = [_spans(rows, group) for group in groups]
        return Sides(spans, _spans(rows, validation), _in_words(rows, corpus, validation))
    train: list[RowSpans] = []
    held: list[NDArray[np.int64]] = []
    cuts: list[tuple[int, int]] = []
    for number, group in enumerate(groups):
        whole, cut = _hold_out(rows, group, config, number)
        held.append(group[whole])
        if cut:
            cuts.append(cut)
        train.append(_spans(rows, group[~whole], cut))
    spans_held = _spans(rows, np.sort(np.concatenate(held)))
    ledger.cut = len(cuts)
    words = _in_words(rows, corpus, np.concatenate(held))
    for row, at in cuts:
        document, start = corpus.documents[rows.files[row]], int(rows.starts[row])
        words.append(f"{document.name} from byte {at - start} of its text")
        spans_held = _with_tail(spans_held, at, start + int(rows.sizes[row]))
    return Sides(train, spans_held, words)


def _without_copies(rows: Rows, named: NDArray[np.bool_], ledger: Ledger) -> NDArray[np.bool_]:
    """Whether each row is the first of its text; those to be held out come before all others."""
    count = len(rows)
    order = np.lexsort((np.arange(count), ~named, rows.keys[:, 1], rows.keys[:, 0]))
    keys = rows.keys[order]
    first = np.ones(count, dtype=np.bool_)
    first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    leads = order[np.maximum.accumulate(np.where(first, np.arange(count), 0))]
    for reason, is_reason in ((HELD_OUT_COPIES, True), (COPIES, False)):
        copies = order[~first & ((named[leads] & ~named[order]) == is_reason)]
        ledger.leave_out(reason, len(copies), int(rows.sizes[copies].sum()))
    kept = np.zeros(count, dtype=np.bool_)
    kept[order[first]] = True
    return kept


def _hold_out(
    rows: Rows, group: NDArray[np.int64], config: TextConfig, number: int
) -> tuple[NDArray[np.bool_], tuple[int, int] | None]:
    """Which rows of a group to hold out whole, and perhaps one that is cut, with the place.

    The rules are those of `split.hold_out`.
    """
    sizes = rows.sizes[group]
    total = int(sizes.sum())
    goal = config.validation * total
    rank = mix(rows.keys[group, 0] ^ mix(np.uint64(config.split_seed % 2**64)))
    order = np.argsort(rank, kind="stable")
    whole = np.zeros(len(group), dtype=np.bool_)
    if len(group):
        whole[order[choose_whole(sizes[order], goal)]] = True
    held = int(sizes[whole].sum())
    cut = None
    if len(group) and goal - held > goal / 2:
        place = int(np.argmax(np.where(whole, -1, sizes)))
        row, size = int(group[place]), int(sizes[place])
        start, tail = int(rows.starts[row]), goal - held
        at = start + min(size - 1, max(1, round(size - tail)))
        at = cut_near(rows.path, at, start + size, slack=int(0.4 * tail))
        if start < at < start + size:
            cut = row, at
            held += start + size - at
    if not goal / 2 <= held <= 2 * goal or not total:
        where = f" of {config.data[number]}" if config.weights else ""
        raise DataError(
            "a corpus must contain enough text for training and for validation",
            got=f"{total} bytes in {counted(len(group), 'document')}{where}",
            fix="add text",
        )
    return whole, cut


def _spans(rows: Rows, chosen: NDArray[np.int64], cut: tuple[int, int] | None = None) -> RowSpans:
    """The chosen rows; of one that is cut, what is before the cut."""
    starts = rows.starts[chosen]
    ends = starts + rows.sizes[chosen]
    stops = ends.copy()
    if cut:
        stops[chosen == cut[0]] = cut[1]
    return RowSpans(rows.path, starts, stops, ends)


def _with_tail(spans: RowSpans, start: int, stop: int) -> RowSpans:
    more = np.array([stop])
    return RowSpans(
        spans.path,
        np.concatenate([spans.starts, [start]]),
        np.concatenate([spans.stops, more]),
        np.concatenate([spans.ends, more]),
    )


def _in_words(rows: Rows, corpus: Corpus, held: NDArray[np.int64]) -> list[str]:
    words = []
    for file, number in zip(*np.unique(rows.files[held], return_counts=True), strict=True):
        document = corpus.everything[file]
        of_rows = "" if document.kind == "text" else f": {counted(int(number), 'row')}"
        words.append(f"{document.name}{of_rows}")
    return words


def _nothing_left(config: TextConfig, ledger: Ledger) -> DataError:
    copies = ledger.left_out.get(HELD_OUT_COPIES)
    return DataError(
        "there must be text to train on beside what is held out",
        got="none" + (f", as {copies.documents:,} are {HELD_OUT_COPIES}" if copies else ""),
        fix=f"other text than that of {', '.join(config.validation_data[:3])}",
    )
