"""Levels: the lowest and highest value of any stretch of a long array, without reading all of it.

Level 0 is the array itself. A node of level n + 1 covers `FAN_OUT` nodes of level n, so all levels
together have a fifteenth of the array's length. Only whole nodes are kept: what is appended later
changes none of them, and a stretch is put together from whole nodes inside and values at its edges.

Of less than millions of values, the extremes are read from the array itself: that takes a
millisecond a million, and the levels are not made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metronorm.board.series._arrays import Growing

if TYPE_CHECKING:
    from metronorm.board.series._arrays import Floats, Integers

FAN_OUT = 16
_DIRECT = 1 << 22  # up to this number of values, in all stretches together, no levels are needed


class Levels:
    """The extremes of an array without NaN that grows at its end."""

    def __init__(self) -> None:
        self._levels: list[tuple[Growing, Growing]] = []

    @property
    def nbytes(self) -> int:
        """The bytes that all levels take."""
        return sum(low.nbytes + high.nbytes for low, high in self._levels)

    def _extend(self, values: Floats) -> None:
        """Take in the values at the end that are new."""
        low = high = values
        for at in range(64):
            count = len(low) // FAN_OUT
            if at == len(self._levels):
                if count < FAN_OUT:
                    return
                self._levels.append((Growing(np.empty(0)), Growing(np.empty(0))))
            lows, highs = self._levels[at]
            new = slice(len(lows) * FAN_OUT, count * FAN_OUT)
            lows.append(low[new].reshape(-1, FAN_OUT).min(1, initial=np.inf))
            highs.append(high[new].reshape(-1, FAN_OUT).max(1, initial=-np.inf))
            low, high = lows.array, highs.array

    def extremes(self, values: Floats, starts: Integers, ends: Integers) -> tuple[Floats, Floats]:
        """The lowest and the highest value of each stretch.

        Args:
            values: the whole array; what was there before must be the same.
            starts: where each stretch begins, in ascending order.
            ends: where it ends, after its start; stretches do not overlap.
        """
        if not len(starts):
            return np.empty(0), np.empty(0)
        if ends[-1] - starts[0] <= _DIRECT:
            return _directly(values, starts, ends)
        self._extend(values)
        low, high = np.full(len(starts), np.inf), np.full(len(starts), -np.inf)
        below = (values, values)
        for level in (*self._levels, None):
            first, last = -(-starts // FAN_OUT), ends // FAN_OUT  # whole nodes one level up
            inner = (first < last) & (level is not None)
            edges = (
                (starts, np.where(inner, first * FAN_OUT, ends)),
                (np.where(inner, last * FAN_OUT, ends), ends),
            )
            for begin, end in edges:
                _take_in(low, np.minimum, below[0], begin, end)
                _take_in(high, np.maximum, below[1], begin, end)
            if level is None or not inner.any():
                break
            starts, ends = np.where(inner, first, 0), np.where(inner, last, 0)
            below = level[0].array, level[1].array
        return low, high


def _directly(values: Floats, starts: Integers, ends: Integers) -> tuple[Floats, Floats]:
    first, last = starts[0], ends[-1]
    inside = values[first:last]
    if np.array_equal(starts[1:], ends[:-1]):
        at = starts - first
        return np.minimum.reduceat(inside, at), np.maximum.reduceat(inside, at)
    # every second stretch is what lies between two of them
    at = np.stack([starts, ends], 1).ravel()[:-1] - first
    return np.minimum.reduceat(inside, at)[::2], np.maximum.reduceat(inside, at)[::2]


def _take_in(
    into: Floats, reduce: np.ufunc, values: Floats, starts: Integers, ends: Integers
) -> None:
    """Reduce short stretches of `values` into `into`; an empty one changes nothing."""
    (some,) = np.nonzero(starts < ends)
    if not len(some):
        return
    starts, ends = starts[some], ends[some]
    columns = np.arange(int((ends - starts).max()))
    at = starts[:, None] + columns
    found = values[np.minimum(at, ends[:, None] - 1)]  # (stretches, longest); the last one repeats
    into[some] = reduce(into[some], reduce.reduce(found, axis=1))
