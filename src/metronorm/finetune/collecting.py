"""Rows become examples: taken, rendered, made tokens, brought to length; what fails is counted.

Rows stream through in batches of about a million characters. Of all data only the tokens stay in
memory, five bytes each.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from metronorm.data.refused import RowRefused
from metronorm.errors import DataError
from metronorm.finetune.chat import ChatTemplate, Rendered
from metronorm.finetune.collected import Collected, Growing
from metronorm.finetune.columns import (
    Conversation,
    LabelledText,
    find_columns,
    named_columns,
    take,
)
from metronorm.finetune.encoding import Encoded, Encoder, cut_middle, in_pieces
from metronorm.finetune.rows import read_rows
from metronorm.finetune.splitting import content_key
from metronorm.text import counted

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from metronorm.finetune.columns import Item
    from metronorm.finetune.data_config import DataConfig, TaskName
    from metronorm.finetune.ledger import Ledger
    from metronorm.finetune.rows import Row

_BATCH_CHARACTERS = 1 << 20
_ROWS_TO_FIND_COLUMNS = 100


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
        before = self._ledger.rows, len(self._ledger.dropped)
        rows = read_rows(sources, self._ledger, limit=self._data.limit)
        kept = Growing()
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
            raise self._nothing(sources, *before)
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

    def _encode(self, batch: list[_Work], kept: Growing) -> None:
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
                kept.add(examples, work.row, work.key, work.label, tokens)
        kept.join()

    def _fit(self, made: list[Encoded], row: Row) -> list[Encoded]:
        """The examples of a row that have at most the length that was chosen, or were cut to it."""
        for each in made:
            if each.refused is not None:
                raise each.refused
        parts = [self._shortened(each, row) for each in made]
        fitting = [each for part in parts for each in part]
        if not fitting:
            what = "too long, even with its prompt cut" if self._cuts else "too long"
            raise RowRefused(what, f"{max(len(each.ids) for each in made):,} tokens")
        if not all(each.counts.any() for each in fitting) and self._task != "classify":
            raise RowRefused("nothing to train on", "no token has another before it")
        if lost := sum(not part for part in parts):
            self._ledger.notes["answers of split conversations that are too long"] += lost
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

    def _nothing(self, sources: Sequence[str], rows_before: int, dropped_before: int) -> DataError:
        read, dropped = self._ledger.rows - rows_before, self._ledger.dropped[dropped_before:]
        reasons = Counter(each.reason for each in dropped).most_common()
        listed = "; ".join(f"{rows:,}: {reason}" for reason, rows in reasons)
        example = ""
        if dropped:
            why = f": {dropped[0].detail}" if dropped[0].detail else ""
            example = f" (as line {dropped[0].line} of {dropped[0].source}{why})"
        return DataError(
            "the data must have rows that can be used",
            got=f"none of {counted(read, 'row')} in {', '.join(sources)}"
            + (f", {listed}{example}" if listed else ""),
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
