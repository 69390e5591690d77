"""An n-gram model of any symbols by interpolated Kneser-Ney: what a recipe of sequences must beat.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1998), with
their three discounts per order. A sequence has a symbol before its start, which is never predicted,
and one after its end, which is. Everything is counted with sorted arrays: five-grams of four
million characters take seconds, and no dictionary.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]


class Level(NamedTuple):
    """The grams of one length, by number; those of a context follow each other.

    Attributes:
        keys: the number of a gram's context among the shorter grams, times `base`, plus the last
            symbol; sorted, (grams,).
        shares: what the counts give the last symbol after its context, (grams,).
        kept: of each context, what is left for shorter contexts; 1 where it was never seen.
    """

    keys: Ints
    shares: Floats
    kept: Floats


class NGram:
    """Probabilities of a symbol after up to `order` - 1 others.

    Args:
        sequences: to count: strings, lists of numbers, or others, of hashable symbols.
        order: symbols of the longest gram.
        alphabet: symbols that may come although they are in no sequence.

    Attributes:
        symbols: the known symbols, in the order of `distribution`, which has the end after them.

    Raises:
        ConfigError: an order below 1.
        DataError: there are no symbols.
    """

    def __init__(
        self,
        sequences: Iterable[Sequence[Hashable]],
        *,
        order: int = 5,
        alphabet: Iterable[Hashable] = (),
    ) -> None:
        if order < 1:
            raise ConfigError("an n-gram model must have an order of at least 1", got=repr(order))
        texts = [*sequences]
        self.order = order
        self.symbols = [*dict.fromkeys(chain(alphabet, chain.from_iterable(texts)))]
        if not self.symbols or not texts:
            raise DataError("an n-gram model must have sequences to count", got="no symbol")
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._end, self._start = len(self.symbols), len(self.symbols) + 1
        self._base = len(self.symbols) + 2
        self._levels = self._counted(self._stream(texts))

    def bits(self, sequence: Sequence[Hashable]) -> Floats:
        """-log2 of the probability of each symbol and of the end, (symbols + 1,).

        Raises:
            DataError: a symbol is unknown.
        """
        return self.bits_of([sequence])

    def bits_of(self, sequences: Iterable[Sequence[Hashable]]) -> Floats:
        """As `bits`, of all sequences, one after the other."""
        stream = self._stream([*sequences])
        levels = self._levels
        found = levels[0].shares[stream]
        grams = stream.copy()  # the number of the gram of the last length that ends here, or -1
        for level in levels[1:]:
            if not len(level.keys):  # no sequence was that long
                break
            contexts = np.concatenate(([-1], grams[:-1]))
            grams = _find(level.keys, contexts, stream, self._base, self._start)
            seen = contexts >= 0
            share = np.where(grams >= 0, level.shares[grams], 0.0)
            found = np.where(seen, share + level.kept[contexts] * found, found)
        return -np.log2(found[stream != self._start])

    def distribution(self, context: Sequence[Hashable], *, start: bool = True) -> Floats:
        """The probability of each of `symbols`, and of the end, after a context, (symbols + 1,).

        Args:
            context: the symbols before.
            start: whether nothing stands before the context.

        Raises:
            DataError: a symbol is unknown.
        """
        known = self._numbers(context[max(0, len(context) - self.order + 1) :])
        before = [self._start] * start + known if len(known) == len(context) else known
        found = self._levels[0].shares[:-1].copy()
        for length in range(1, min(self.order - 1, len(before)) + 1):
            node = before[-length]
            for depth, symbol in enumerate(before[len(before) - length + 1 :], start=1):
                pair = np.array([[node], [symbol]])
                node = int(_find(self._levels[depth].keys, *pair, self._base, -1)[0])
                if node < 0:
                    return found  # longer contexts were not seen either
            level = self._levels[length]
            first, last = np.searchsorted(level.keys, (node * self._base, (node + 1) * self._base))
            found *= level.kept[node]
            found[level.keys[first:last] - node * self._base] += level.shares[first:last]
        return found

    def _numbers(self, sequence: Sequence[Hashable]) -> list[int]:
        try:
            return [self._ids[symbol] for symbol in sequence]
        except KeyError as error:
            raise DataError(
                "an n-gram model must know all symbols", got=repr(error.args[0]), fix="alphabet="
            ) from None

    def _stream(self, sequences: list[Sequence[Hashable]]) -> Ints:
        """All sequences as numbers, each between its start and its end."""
        each = ((self._start, *self._numbers(sequence), self._end) for sequence in sequences)
        return np.fromiter(chain.from_iterable(each), np.int64)

    def _counted(self, stream: Ints) -> list[Level]:
        base, start = self._base, self._start
        grams = stream  # the number of the gram that ends here, or -1
        keys = np.arange(base)
        counts = np.bincount(stream, minlength=base)
        begins = keys == start  # which grams begin with the start of a sequence
        levels = []
        for length in range(1, self.order + 1):
            if length < self.order:
                contexts = np.concatenate(([-1], grams[:-1]))
                whole = (contexts >= 0) & (stream != start)
                longer, where, which, longer_counts = np.unique(
                    contexts[whole] * base + stream[whole],
                    return_index=True,
                    return_inverse=True,
                    return_counts=True,
                )
                # How many different symbols stand before a gram; nothing stands before the start.
                ends = grams[whole][where]
                counts = np.where(begins, counts, np.bincount(ends, minlength=len(keys)))
            if length == 1:
                counts[start] = 0
            levels.append(_level(keys, counts, base if length > 1 else 0, levels))
            if length < self.order:
                grams = np.full(len(stream), -1)
                grams[whole] = which.reshape(-1)
                begins, keys, counts = begins[longer // base], longer, longer_counts
        return levels


def _level(keys: Ints, counts: Ints, base: int, shorter: list[Level]) -> Level:
    """Shares of counts, less the discounts; the shortest grams share the rest among all symbols."""
    contexts = keys // base if base else np.zeros(len(keys), np.int64)
    size = len(shorter[-1].keys) if base else 1
    discounted = discounts(counts)[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, size)
    seen = totals > 0
    rests = np.bincount(contexts, discounted, size)
    kept = np.divide(rests, totals, out=np.ones(size), where=seen)
    shares = (counts - discounted) / np.where(seen, totals, 1.0)[contexts]
    if not base:
        shares[:-1] += kept[0] / (len(keys) - 1)  # the start is never predicted
    return Level(keys, shares, kept)


def discounts(counts: Ints) -> Floats:
    """What is taken off a count of 0, 1, 2, and of 3 and more: equation 26 of Chen and Goodman.

    A half per count, one and a half at most, where the counts are too few to say.
    """
    n = [int((counts == number).sum()) for number in range(1, 5)]
    if not all(n):
        return np.array([0.0, 0.5, 1.0, 1.5])
    share = n[0] / (n[0] + 2 * n[1])
    found = [at - (at + 1) * share * n[at] / n[at - 1] for at in (1, 2, 3)]
    return np.array([0.0, *np.clip(found, 0.0, (1, 2, 3))])


def _find(keys: Ints, contexts: Ints, last: Ints, base: int, never: int) -> Any:
    """The numbers of grams, (n,), by those of their contexts and their last symbol; -1: unseen."""
    wanted = contexts * base + last
    places = np.searchsorted(keys, wanted)
    places[places == len(keys)] = 0
    known = (contexts >= 0) & (last != never)
    return np.where(known & (keys[places] == wanted), places, -1) if len(keys) else places - 1
