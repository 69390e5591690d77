"""Examples of some data, in flat arrays, with what is needed to split and count them."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metronorm.finetune.examples import Texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from metronorm.finetune.encoding import Encoded
    from metronorm.finetune.rows import Row


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


class Growing:
    """Examples that are kept, row by row: five bytes per token while they grow."""

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

    def add(self, examples: list[Encoded], row: Row, key: int, label: str, tokens: int) -> None:
        """Keep the examples of a row.

        Args:
            examples: as they are after some of it was cut.
            row: that they are from.
            key: of its content.
            label: the name of its class, or nothing.
            tokens: that it had become.
        """
        cut = tokens - sum(len(each.ids) for each in examples)
        for number, each in enumerate(examples):
            self._ids.append(each.ids)
            self._counts.append(each.counts)
            self._lengths.append(len(each.ids))
            self._begins.append(number == 0)
            self._cut.append(cut if number == 0 else 0)
            self._file.append(self._files.setdefault(row.source, len(self._files)))
            self._lines.append(row.line)
            self._label.append(self._labels.setdefault(label, len(self._labels)))
            self._keys.append(key)

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
