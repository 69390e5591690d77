"""An endless pseudo-random order of examples, whose whole state is one number.

The order of an epoch is not stored but computed: a Feistel network, keyed by seed and epoch, maps
the place in the epoch to the example. So an order over a billion examples needs no more memory than
one over ten, any batch can be computed by itself, and whoever knows how many examples were consumed
can go on.
"""

from __future__ import annotations

import hashlib
import sys
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.errors import ConfigError, DataError
from metronorm.scalars import as_integer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

_ROUNDS = 8


class Shuffled:
    """Examples in an endless pseudo-random order: every epoch has each of them once.

    A batch may hold the end of an epoch and the beginning of the next.

    Args:
        columns: what an example has, such as images and labels: NumPy arrays (also memory maps, of
            which only the rows that are taken are read), tensors, or other sequences of one length.
            The first index is the example's.
        seed: of the order, and of the random numbers of `transform`; 64 bits of it count.
        transform: applied to every batch, with a generator of random numbers that depends on the
            seed and on the batch's place only: `transform(batch, rng)`. For augmentation.
        data_id: names the content of the columns, so that a resumed run can tell that it has
            changed. None: SHA-256 of arrays and tensors, of all their content, once per start: 1 to
            2 seconds per GiB of memory, and for a memory map as long as its file takes to read. A
            name of your own, such as a version, spares that. Other sequences have none.

    Raises:
        ConfigError: a seed that is no whole number.
        DataError: columns that are empty, of different lengths, or not indexed by number.

    >>> order = Shuffled(np.arange(5) * 10, seed=0)
    >>> sorted(order.take(0, 5).tolist())
    [0, 10, 20, 30, 40]
    """

    def __init__(
        self,
        *columns: Any,
        seed: int,
        transform: Callable[[Any, np.random.Generator], Any] | None = None,
        data_id: str | None = None,
    ) -> None:
        if as_integer(seed) is None:
            raise ConfigError("seed must be a whole number", got=repr(seed), fix="0")
        _check_columns(columns)
        self._columns, self._seed, self._transform = columns, int(seed), transform
        self._data_id = data_id

    @property
    def examples_per_epoch(self) -> int:
        """The number of examples in an epoch."""
        return len(self._columns[0])

    @property
    def data_id(self) -> str | None:
        """What names the content of the columns; None where nothing does."""
        if self._data_id is None:
            self._data_id = hash_columns(self._columns)
        return self._data_id

    def take(self, first: int, size: int) -> Any:
        """The batch of examples `first` to `first + size` of the order.

        Returns:
            The rows of the column, or a tuple of those of all columns: arrays of arrays, tensors of
            tensors, lists of other sequences.
        """
        where = shuffled_places(first + np.arange(size), self.examples_per_epoch, self._seed)
        batch = tuple(_rows(column, where) for column in self._columns)
        taken = batch if len(batch) > 1 else batch[0]
        if self._transform is None:
            return taken
        return self._transform(taken, np.random.default_rng((self._seed % 2**64, first)))


class InOrder:
    """Examples one after the other, in batches: what to evaluate on. Each comes once.

    Args:
        columns: as for `Shuffled`.
        batch_size: examples in a batch; the last one may be smaller.

    Raises:
        ConfigError: a batch size that is not at least 1.
        DataError: columns that are empty, of different lengths, or not indexed by number.
    """

    def __init__(self, *columns: Any, batch_size: int) -> None:
        number = as_integer(batch_size)
        if number is None or number < 1:
            raise ConfigError("batch_size must be at least 1", got=repr(batch_size))
        _check_columns(columns)
        self._columns, self._batch_size = columns, number

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self._columns[0]), self._batch_size):
            where = slice(first, first + self._batch_size)
            batch = tuple(column[where] for column in self._columns)
            yield batch if len(batch) > 1 else batch[0]

    def __len__(self) -> int:
        return -(-len(self._columns[0]) // self._batch_size)


class Planned:
    """An endless order that follows a plan per epoch: for examples packed or bucketed by length.

    The plan of an epoch is a list of items, such as the examples that fill a row together. It is
    made anew from the epoch's number, so the state is one number here too: the items consumed. One
    plan is kept, that of the epoch of the newest batch, and the lengths of all before it; to go on
    in epoch N, a resumed run makes the plans of all epochs up to N.

    Args:
        plan: the items of an epoch, by its number from 0 on: a function of (data, seed, epoch)
            alone.
        collate: makes a batch of a list of items.
        data_id: names the content of the data.

    Raises:
        DataError: from `take`: an epoch without items, or with other items than before.

    >>> order = Planned(lambda epoch: [f"{epoch}a", f"{epoch}b"], " ".join)
    >>> order.take(1, 3)
    '0b 1a 1b'
    """

    def __init__(
        self,
        plan: Callable[[int], Sequence[Any]],
        collate: Callable[[list[Any]], Any],
        *,
        data_id: str | None = None,
    ) -> None:
        self._plan, self._collate, self.data_id = plan, collate, data_id
        self._ends: list[int] = []  # items up to the end of each epoch planned so far
        self._epoch, self._items = -1, ()

    def take(self, first: int, size: int) -> Any:
        """The batch of items `first` to `first + size` of the order."""
        epoch, place = self._where(first)
        taken: list[Any] = []
        while len(taken) < size:
            taken.extend(self._items_of(epoch)[place : place + size - len(taken)])
            epoch, place = epoch + 1, 0
        return self._collate(taken)

    def _where(self, item: int) -> tuple[int, int]:
        """The epoch of an item of the order, and its place in that epoch."""
        while not self._ends or self._ends[-1] <= item:
            self._items_of(len(self._ends))
        epoch = bisect_right(self._ends, item)
        return epoch, item - self._begin(epoch)

    def _begin(self, epoch: int) -> int:
        return self._ends[epoch - 1] if epoch else 0

    def _items_of(self, epoch: int) -> Sequence[Any]:
        if epoch == self._epoch:
            return self._items
        items = self._plan(epoch)
        if not len(items):
            raise DataError("a plan must have an item at least", got=f"none in epoch {epoch}")
        end = self._begin(epoch) + len(items)
        if epoch == len(self._ends):
            self._ends.append(end)
        elif end != self._ends[epoch]:
            raise DataError(
                "the plan of an epoch must be the same whenever it is made",
                got=f"{len(items)} items in epoch {epoch}, "
                f"which had {self._ends[epoch] - self._begin(epoch)}",
                fix="random numbers of (seed, epoch) alone",
            )
        self._epoch, self._items = epoch, items  # type: ignore[assignment]
        return items


def shuffled_places(places: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Which of `size` examples come at these places of the endless order.

    Args:
        places: int64, any shape, from 0 on.
        size: examples in an epoch.
        seed: of the order; any integer, of which 64 bits count.

    Returns:
        int64, of the same shape, each below `size`.
    """
    epochs, places = np.divmod(places, size)
    return permute(places, size, epoch_keys(epochs, seed))


def epoch_keys(epochs: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """The key of each epoch's order, uint64 of the same shape."""
    return mix(mix(np.uint64(seed % 2**64)) + epochs.astype(np.uint64))


def permute(places: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Map each place below `size` to a place below `size`, one to one; `keys` choose the map.

    This is a Feistel network on pairs (left below a, right below b) with a * b just above `size`
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). A result outside of `size`
    goes through the network again until it is inside.

    Args:
        places: int64, any shape.
        size: number of places.
        keys: uint64, of the same shape: one for each place.

    Returns:
        int64, of the same shape.
    """
    a = int(np.ceil(np.sqrt(size)))
    b = -(-size // a)
    result = np.array(places, dtype=np.int64)
    outside = np.ones(result.shape, dtype=np.bool_)
    while outside.any():
        left, right = (half.astype(np.uint64) for half in np.divmod(result[outside], b))
        key = keys[outside]
        for turn in range(_ROUNDS):
            turned = key + np.uint64(turn * 0x9E3779B97F4A7C15 % 2**64)
            if turn % 2:
                left = (left + mix(turned ^ right) % np.uint64(a)) % np.uint64(a)
            else:
                right = (right + mix(turned ^ left) % np.uint64(b)) % np.uint64(b)
        result[outside] = (left * np.uint64(b) + right).astype(np.int64)
        outside = result >= size
    return result


def mix(values: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Splitmix64's finalizer: every bit of the input moves every bit of the output."""
    x = np.atleast_1d(values) + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap without a warning
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_columns(columns: Sequence[Any]) -> str | None:
    """SHA-256 of arrays or tensors: dtypes, shapes and content; None if one of them is neither."""
    digest = hashlib.sha256()
    for column in columns:
        dtype = str(column.dtype) if hasattr(column, "dtype") else ""
        if hasattr(column, "detach"):  # a tensor; as bytes, for NumPy has not all of its dtypes
            shape = tuple(column.shape)
            flat = column.detach().cpu().contiguous().reshape(-1)
            column = flat.view(sys.modules["torch"].uint8).numpy()
        elif isinstance(column, np.ndarray) and not column.dtype.hasobject:
            shape, dtype = column.shape, column.dtype.str
        else:
            return None
        digest.update(f"{dtype}{shape}".encode())
        rows = max(1, _HASHED_BYTES * len(column) // max(1, column.nbytes))
        for row in range(0, len(column), rows):  # a memory map is never read whole
            part = np.ascontiguousarray(column[row : row + rows])
            digest.update(part.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


_HASHED_BYTES = 16 << 20  # at a time


def _check_columns(columns: Sequence[Any]) -> None:
    lengths = []
    for column in columns:
        try:
            lengths.append(len(column))
        except TypeError as error:
            raise DataError(
                "a column must be an array, a tensor or another sequence",
                got=f"a {type(column).__name__} ({error})",
            ) from None
        if hasattr(column, "iloc") or isinstance(column, Mapping):  # would be asked for labels
            raise DataError(
                "the examples of a column must have numbers from 0 on",
                got=f"a {type(column).__name__}, which has labels",
                fix=".to_numpy()" if hasattr(column, "to_numpy") else "its values, each a column",
            )
    if not lengths or len(set(lengths)) > 1 or not lengths[0]:
        raise DataError(
            "the columns must hold as many examples, and one at least", got=str(lengths)
        )


def _rows(column: Any, where: NDArray[np.int64]) -> Any:
    if isinstance(column, np.ndarray) or hasattr(column, "index_select"):  # or a tensor
        return column[where]
    return [column[index] for index in where.tolist()]
