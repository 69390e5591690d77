"""Orders of examples for a training: packs of texts to write, padded rows of texts to classify.

A pack is some texts that together have at most a given number of positions. Packs of a batch are
laid one after the other into one sequence, so that nothing is padded:

    ids        7  4  9 | 3  8 | 5  2  6      the texts, without what no counted token follows
    positions  0  1  2 | 0  1 | 0  1  2
    targets    4  9  1 | 8  1 | 2  6  1      the next token
    weights    0  1  1 | 0  1 | 0  1  1      of predicting it

Attention must not cross the bars (`lengths` says where they are).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from metronorm.data.shuffled import Shuffled, shuffled_places
from metronorm.errors import ConfigError, DataError
from metronorm.finetune.examples import hash_examples
from metronorm.scalars import as_integer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from metronorm.finetune.examples import Example, Labelled

    Batch = dict[str, NDArray[Any]]

_RESTING = 0  # a target that does not count


class Packs:
    """Examples packed into sequences, in an endless pseudo-random order: every epoch has each once.

    Which examples are in a pack depends on the seed alone; the order of the packs is another in
    each epoch. The state is one number: the packs consumed.

    Args:
        examples: texts to write.
        length: most positions of a pack.
        seed: of the packing and the order.

    Raises:
        ConfigError: a length below 1.
        DataError: no examples, one in which nothing counts, or one that is longer than a pack.
    """

    def __init__(self, examples: Sequence[Example], length: int, seed: int) -> None:
        if (as_integer(length) or 0) < 1:
            raise ConfigError("a pack must have at least 1 position", got=repr(length))
        self._examples, self._length, self._seed = examples, int(length), seed
        self._positions = _positions(examples, self._length)
        order = np.random.default_rng(seed % 2**64).permutation(len(examples))
        self._packs = best_fit(self._positions, self._length, order)
        self._order = Shuffled(np.arange(len(self._packs)), seed=seed, data_id="")
        self._data_id: str | None = None

    @property
    def examples_per_epoch(self) -> int:
        """Packs in an epoch."""
        return len(self._packs)

    @property
    def empty(self) -> float:
        """The share of all packs' positions that no text fills; they are not computed."""
        return 1 - int(self._positions.sum()) / (len(self._packs) * self._length)

    @property
    def data_id(self) -> str:
        """SHA-256 of the examples and of how they are packed."""
        if self._data_id is None:
            self._data_id = hash_examples(self._examples, self._length, self._seed)
        return self._data_id

    def take(self, first: int, size: int) -> Batch:
        """The batch of packs `first` to `first + size` of the order; see `collate`."""
        return self.collate(self.chosen(first, size))

    def chosen(self, first: int, size: int) -> NDArray[np.int64]:
        """The numbers of the examples in the batch of packs `first` to `first + size`."""
        return np.concatenate(
            [self._packs[pack] for pack in self._order.take(first, size).tolist()]
        )

    def largest(self, size: int) -> Batch:
        """A batch that takes as much memory as any: the packs with most positions and answers."""
        counts = [int(np.count_nonzero(each.weights)) for each in self._examples]
        by_size = sorted(
            self._packs,
            key=lambda pack: (int(self._positions[pack].sum()), sum(counts[n] for n in pack)),
        )
        return self.collate(np.concatenate(by_size[-size:]))

    def once(self, size: int) -> Once[Batch]:
        """All examples in their own order, in batches of about `size` packs: to evaluate on."""
        starts = [0]
        filled = 0
        for number, positions in enumerate(self._positions.tolist()):
            if filled and filled + positions > size * self._length:
                starts.append(number)
                filled = 0
            filled += positions
        return Once([*starts, len(self._positions)], self.collate)

    def collate(self, numbers: NDArray[np.int64]) -> Batch:
        """The batch of these examples.

        Returns:
            `ids`, `positions` and `targets`, int64 (positions,); `weights` float32 (positions,),
            0 where the target does not count; `lengths` int64 (texts,), whose sum is the number of
            positions.
        """
        lengths = self._positions[numbers]
        texts = [self._examples[number] for number in numbers.tolist()]
        sizes = list(zip(texts, lengths.tolist(), strict=True))
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        return {
            "ids": np.concatenate([text.ids[:size] for text, size in sizes]).astype(np.int64),
            "positions": np.arange(len(starts)) - starts,
            "targets": np.concatenate([text.ids[1 : size + 1] for text, size in sizes]).astype(
                np.int64
            ),
            "weights": np.concatenate([text.weights[1 : size + 1] for text, size in sizes]),
            "lengths": lengths,
        }


class Rows:
    """Texts to classify, in an endless pseudo-random order: every epoch has each once.

    A batch is padded to its longest text. So that little is padded, texts of like length come
    together within a tick, which changes nothing: a tick has the same texts as without.

    Args:
        examples: texts to classify.
        pad_id: the token to pad with.
        seed: of the order.
        window: texts of a tick: batch_size * micro_batches. 1: the order is not sorted.

    Raises:
        ConfigError: a window below 1.
        DataError: no examples.
    """

    def __init__(
        self, examples: Sequence[Labelled], pad_id: int, seed: int, *, window: int = 1
    ) -> None:
        if (as_integer(window) or 0) < 1:
            raise ConfigError("a window must have at least 1 text", got=repr(window))
        if not len(examples):
            raise DataError("there must be texts to classify", got="none")
        self._examples, self._pad_id, self._seed = examples, pad_id, seed
        # of a tick longer than an epoch, whole parts are sorted: all of it would take long
        longest = min(int(window), len(examples))
        self._window = next(size for size in range(longest, 0, -1) if window % size == 0)
        self._lengths = np.array([len(example.ids) for example in examples])
        self._data_id: str | None = None

    @property
    def examples_per_epoch(self) -> int:
        """Texts in an epoch."""
        return len(self._examples)

    @property
    def data_id(self) -> str:
        """SHA-256 of the examples."""
        if self._data_id is None:
            self._data_id = hash_examples(self._examples)
        return self._data_id

    def take(self, first: int, size: int) -> Batch:
        """The batch of texts `first` to `first + size` of the order; see `collate`."""
        return self.collate(self.chosen(first, size))

    def chosen(self, first: int, size: int) -> NDArray[np.int64]:
        """The numbers of the examples in the batch of texts `first` to `first + size`."""
        begin = first - first % self._window
        windows = -(-(first + size - begin) // self._window)
        places = np.arange(begin, begin + windows * self._window)
        numbers = shuffled_places(places, len(self._examples), self._seed)
        numbers = numbers.reshape(windows, self._window)
        longest_last = np.argsort(self._lengths[numbers], axis=1, kind="stable")
        numbers = np.take_along_axis(numbers, longest_last, axis=1).reshape(-1)
        return numbers[first - begin : first - begin + size]

    def largest(self, size: int) -> Batch:
        """A batch that takes as much memory as any: all are padded to the longest text."""
        longest = np.argsort(self._lengths, kind="stable")[-size:]
        return self.collate(np.resize(longest, size))

    def once(self, size: int) -> Once[Batch]:
        """All examples in their own order, in batches of `size`: to evaluate on."""
        return Once([*range(0, len(self._examples), size), len(self._examples)], self.collate)

    def by_length(self, size: int, most: int | None = None) -> Once[Batch]:
        """Examples once, the longest first, so that batches of `size` are padded least.

        Args:
            size: of a batch.
            most: only so many, those that the order begins with; None: all.
        """
        numbers = np.arange(len(self._examples))
        if most is not None and most < len(numbers):
            numbers = self.chosen(0, most)
        order = numbers[np.argsort(-self._lengths[numbers], kind="stable")]
        bounds = [*range(0, len(order), size), len(order)]
        return Once(bounds, lambda places: self.collate(order[places]))

    def collate(self, numbers: NDArray[np.int64]) -> Batch:
        """The batch of these examples.

        Returns:
            `ids` int64 (texts, longest); `mask` int64 (texts, longest), 0 where it is padded;
            `labels` int64 (texts,).
        """
        texts = [self._examples[number] for number in numbers.tolist()]
        mask = np.arange(self._lengths[numbers].max()) < self._lengths[numbers][:, None]
        ids = np.full(mask.shape, self._pad_id, dtype=np.int64)
        ids[mask] = np.concatenate([text.ids for text in texts])
        return {
            "ids": ids,
            "mask": mask.astype(np.int64),
            "labels": np.array([text.label for text in texts], dtype=np.int64),
        }


T = TypeVar("T")


class Once(Generic[T]):
    """Batches of examples one after the other, each once; they can be iterated again.

    Args:
        bounds: where each batch begins, and where the last one ends.
        collate: makes a batch of the numbers of examples.
    """

    def __init__(self, bounds: list[int], collate: Callable[[NDArray[np.int64]], T]) -> None:
        self._bounds, self._collate = bounds, collate

    def __iter__(self) -> Iterator[T]:
        for start, stop in pairwise(self._bounds):
            yield self._collate(np.arange(start, stop))

    def __len__(self) -> int:
        return len(self._bounds) - 1


def best_fit(
    lengths: NDArray[np.int64], capacity: int, order: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Put items into as few bins as best-fit-decreasing finds.

    From the longest item to the shortest, each goes where it leaves the least room.

    Args:
        lengths: int64 (items,), each from 1 to `capacity`.
        capacity: of a bin.
        order: int64 (items,), which of equally long items comes first.

    Returns:
        The numbers of the items in each bin.
    """
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins, by the room they have left
    rooms = 0  # bit n: there is a bin with room for n
    bins: list[list[int]] = []
    for item in order[np.argsort(-lengths[order], kind="stable")].tolist():
        length = int(lengths[item])
        if enough := rooms >> length:
            room = length + (enough & -enough).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
            bins[chosen].append(item)
        else:
            room, chosen = capacity, len(bins)
            bins.append([item])
        if left := room - length:
            by_room[left].append(chosen)
            rooms |= 1 << left
    return [np.array(items) for items in bins]


def _positions(examples: Sequence[Example], length: int) -> NDArray[np.int64]:
    """The positions that each text needs: up to the one that predicts its last counted token."""
    positions = np.zeros(len(examples), dtype=np.int64)
    if not len(examples):
        raise DataError("there must be texts to train on", got="none")
    for number, example in enumerate(examples):
        counted = np.flatnonzero(example.weights)
        positions[number] = counted[-1] if len(counted) else 0
        if not 1 <= positions[number] <= length:
            raise DataError(
                f"a text must have from 1 to {length} positions to be packed",
                got=f"{positions[number]} in line {example.line} of {example.source}",
                fix="a higher max_tokens" if positions[number] else "a text with an answer",
            )
    return positions
