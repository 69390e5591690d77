"""Rows become examples: taken, rendered, made tokens, brought to length; what fails is counted.

Rows stream through in batches of about a million characters. Of all data only the tokens stay in
memory, five bytes each.
"""

from __future__ import annotations

from array import array
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from metronorm.errors import DataError
from metronorm.finetune.chat import ChatTemplate, Rendered
from metronorm.finetune.columns import (
    Conversation,
    LabelledText,
    find_columns,
    named_columns,
    take,
)
from metronorm.finetune.encoding import Encoded, Encoder, cut_middle, in_pieces
from metronorm.finetune.examples import Texts
from metronorm.finetune.ledger import RowRefused
from metronorm.finetune.rows import read_rows
from metronorm.finetune.splitting import content_key
from metronorm.text import counted

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from metronorm.finetune.columns import Item
    from metronorm.finetune.data_config import DataConfig, TaskName
    from metronorm.finetune.ledger import Ledger
    from metronorm.finetune.rows import Row

_BATCH_CHARACTERS = 1 << 20
_ROWS_TO_FIND_COLUMNS = 100


class Collected(NamedTuple):
    """Examples of some data.

    Attributes:
        texts: their tokens.
        counts: bool (all tokens,), whether a token is of an answer.
        begins: bool (texts,), whether it is the first that its row became.
        keys: uint64 (texts,), of the row's content, to split by.
        cut: int64 (texts,), tokens that were left out of the row, at the first that it became.
        labels: names of the classes, in the order in which they came.
        label: int64 (texts,), the number of each one's class in `labels`.
    """

    texts: Texts
    counts: NDArray[np.bool_]
    begins: NDArray[np.bool_]
    keys: NDArray[np.uint64]
    cut: NDArray[np.int64]
    labels: tuple[str, ...]
    label: NDArray[np.int64]

    def select(self, kept: NDArray[np.bool_]) -> Collected:
        """The kept texts alone, bool (texts,)."""
        return Collected(
            self.texts.select(kept),
            self.counts[self.texts.tokens_of(kept)],
            self.begins[kept],
            self.keys[kept],
            self.cut[kept],
            self.labels,
            self.label[kept],
        )


class _Work(NamedTuple):
    row: Row
    key: int
    label: str
    rendered: list[Rendered]


class Collector:
    """Makes examples of rows.

    Args:
        data: what was chosen about the data.
        tokenizer: from `transformers`.
        task: chat, text or classify.
        most: tokens of an example.
        ledger: counts what goes in, and what is dropped.

    Attributes:
        encoder: which has counted the tokens that answers end with.

    Raises:
        DataError: the tokenizer cannot do the task.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskName,
        most: int,
        ledger: Ledger,
    ) -> None:
        self._data, self._task, self._most, self._ledger = data, task, most, ledger
        self.encoder = Encoder(tokenizer)
        self._template = ChatTemplate(tokenizer) if task == "chat" else None

    def collect(self, sources: Sequence[str], elsewhere: Container[int]) -> Collected:
        """The examples of some data.

        Args:
            sources: files, folders and globs.
            elsewhere: keys of contents that are in another set; rows with them are dropped.

        Raises:
            DataError: a source cannot be read or lacks the columns; no row can be used; a row is
                too long and is to be refused.
        """
        rows = read_rows(sources, self._ledger, limit=self._data.limit)
        kept = _Kept()
        if first := list(islice(rows, _ROWS_TO_FIND_COLUMNS)):
            names = list(dict.fromkeys(chain.from_iterable(row.values for row in first)))
            named = named_columns(self._data.columns)
            columns = find_columns(self._task, names, named, first[0].source)
            self._ledger.columns = columns
            self._ledger.unused_columns = tuple(
                name for name in names if name not in columns.values()
            )
            for batch in _batches(self._works(chain(first, rows), columns, elsewhere)):
                self._encode(batch, kept)
        if not kept:
            raise self._nothing(sources)
        return kept.collected()

    def _works(
        self, rows: Iterable[Row], columns: dict[str, str], elsewhere: Container[int]
    ) -> Iterator[_Work]:
        """The rows that can be used, rendered."""
        seen: dict[int, tuple[str, int]] = {}
        for row in rows:
            try:
                item = take(self._task, columns, row.values)
                key, whole = _keys(item)
                if key in elsewhere:
                    raise RowRefused("also in the validation data")
                if whole not in seen:
                    seen[whole] = row.source, row.line
                elif self._data.duplicates == "drop":
                    source, line = seen[whole]
                    raise RowRefused("a copy of an earlier row", f"line {line} of {source}")
                else:
                    self._ledger.notes["copies of earlier rows"] += 1
                label = item.label if isinstance(item, LabelledText) else ""
                yield _Work(row, key, label, self._render(item))
            except RowRefused as refused:
                self._ledger.drop(row, refused)

    def _render(self, item: Item) -> list[Rendered]:
        if isinstance(item, Conversation):
            assert self._template is not None
            return self._template.render(item, split=self._data.turns == "split")
        if isinstance(item, LabelledText):
            return [Rendered(item.text, [], [])]
        text, start = item.prompt + item.text, len(item.prompt)
        return [Rendered(text, [(start, len(text))], [(0, start)] if start else [])]

    def _encode(self, batch: list[_Work], kept: _Kept) -> None:
        encoded = iter(
            self.encoder.encode(self._task, [each for work in batch for each in work.rendered])
        )
        for work in batch:
            made = list(islice(encoded, len(work.rendered)))
            tokens = sum(len(each.ids) for each in made)
            self._ledger.tokens += tokens
            try:
                examples = self._fit(made, work.row)
            except RowRefused as refused:
                self._ledger.drop(work.row, refused, tokens)
            else:
                kept.add(examples, work, tokens)
        kept.join()

    def _fit(self, made: list[Encoded], row: Row) -> list[Encoded]:
        """The examples of a row that have at most the length that was chosen, or were cut to it."""
        for each in made:
            if each.refused is not None:
                raise each.refused
        fitting = [part for each in made for part in self._shortened(each, row)]
        if not fitting:
            what = "too long, even with its prompt cut" if self._cuts else "too long"
            raise RowRefused(what, f"{max(len(each.ids) for each in made):,} tokens")
        if not all(each.counts.any() for each in fitting) and self._task != "classify":
            raise RowRefused("nothing to train on", "no token has another before it")
        return fitting

    def _shortened(self, each: Encoded, row: Row) -> list[Encoded]:
        if len(each.ids) <= self._most:
            return [each]
        if self._data.too_long == "refuse":
            raise DataError(
                f"an example must have at most {self._most:,} tokens",
                got=f"{len(each.ids):,} in line {row.line} of {row.source}",
                fix="--too-long cut or drop",
            )
        if self._cuts and self._task == "text" and not each.prompts:
            pieces = in_pieces(each, self._most)
            self._ledger.notes["examples that continue a long text"] += len(pieces) - 1
            return pieces
        shorter = cut_middle(each, self._most) if self._cuts else None
        return [] if shorter is None else [shorter]

    @property
    def _cuts(self) -> bool:
        return self._data.too_long == "cut"

    def _nothing(self, sources: Sequence[str]) -> DataError:
        read, reasons = self._ledger.rows, self._ledger.reasons
        listed = "; ".join(f"{rows:,}: {reason}" for reason, (rows, _) in reasons.items())
        first = self._ledger.dropped[-1] if self._ledger.dropped else None
        example = f" (line {first.line} of {first.source}: {first.detail})" if first else ""
        return DataError(
            "the data must have rows to train on",
            got=f"none of {counted(read, 'row')} in {', '.join(sources)}"
            + (f", {listed}{example}" if listed else ""),
        )


class _Kept:
    """Examples that are kept, in flat arrays."""

    def __init__(self) -> None:
        self._ids: list[NDArray[np.int32]] = []
        self._counts: list[NDArray[np.bool_]] = []
        self._files: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._joined = 0
        self._lengths, self._begins, self._cut, self._file, self._lines, self._label = (
            array("q") for _ in range(6)
        )
        self._keys = array("Q")

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, examples: list[Encoded], work: _Work, tokens: int) -> None:
        """Keep the examples of a row that had become so many tokens."""
        cut = tokens - sum(len(each.ids) for each in examples)
        for number, each in enumerate(examples):
            self._ids.append(each.ids)
            self._counts.append(each.counts)
            self._lengths.append(len(each.ids))
            self._begins.append(number == 0)
            self._cut.append(cut if number == 0 else 0)
            self._file.append(self._files.setdefault(work.row.source, len(self._files)))
            self._lines.append(work.row.line)
            self._label.append(self._labels.setdefault(work.label, len(self._labels)))
            self._keys.append(work.key)

    def join(self) -> None:
        """Make one array of those since the last time: small ones need more than their content."""
        if len(self._ids) > self._joined:
            self._ids[self._joined :] = [np.concatenate(self._ids[self._joined :])]
            self._counts[self._joined :] = [np.concatenate(self._counts[self._joined :])]
            self._joined = len(self._ids)

    def collected(self) -> Collected:
        """All that was kept."""
        texts = Texts(
            np.concatenate(self._ids),
            np.cumsum(np.array(self._lengths, dtype=np.int64)),
            tuple(self._files),
            np.array(self._file, dtype=np.int32),
            np.array(self._lines),
        )
        return Collected(
            texts,
            np.concatenate(self._counts),
            np.array(self._begins, dtype=np.bool_),
            np.array(self._keys),
            np.array(self._cut),
            tuple(self._labels),
            np.array(self._label),
        )


def _batches(works: Iterable[_Work]) -> Iterator[list[_Work]]:
    batch: list[_Work] = []
    characters = 0
    for work in works:
        batch.append(work)
        characters += sum(len(each.text) for each in work.rendered)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _keys(item: Item) -> tuple[int, int]:
    """The key of a content to split by, and the one that only copies have in common.

    A text with two labels is one content: it must not be on both sides.
    """
    if isinstance(item, Conversation):
        key = content_key(msgspec.json.encode((item.messages, item.tools)).decode())
        return key, key
    if isinstance(item, LabelledText):
        return content_key(item.text), content_key(*item)
    return (key := content_key(*item)), key
