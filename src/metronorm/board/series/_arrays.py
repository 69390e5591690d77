"""Arrays that grow at their end, and the mark of a value that was not logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# A column is one array of float64. What was not logged is a NaN with bits of its own, so that it
# differs from a NaN that was logged.
_MISSING_BITS = np.uint64(0x7FF8_6D69_7373_6564)


def is_missing(values: Floats) -> npt.NDArray[np.bool_]:
    """Which values were not logged."""
    found: npt.NDArray[np.bool_] = values.view(np.uint64) == _MISSING_BITS
    return found


def missing(count: int) -> Floats:
    """A column without any value."""
    return np.full(count, _MISSING_BITS).view(np.float64)


def joined(pieces: Sequence[npt.NDArray[Any]], dtype: Any = np.float64) -> npt.NDArray[Any]:
    """The pieces as one array, without a copy where only one has elements."""
    some = [piece for piece in pieces if len(piece)]
    return some[0] if len(some) == 1 else np.concatenate([np.empty(0, dtype), *some])


class Growing:
    """An array that grows at its end in amortized constant time.

    Args:
        values: the first values; their dtype is that of the array.
    """

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._held = values
        self._count = len(values)
        self._is_own = False  # copied when something is appended or changed

    def __len__(self) -> int:
        return self._count

    @property
    def array(self) -> npt.NDArray[Any]:
        """The values; what is appended later does not change them."""
        return self._held[: self._count]

    @property
    def nbytes(self) -> int:
        """The bytes that it holds, also those for values to come."""
        return self._held.nbytes

    def change(self, at: int, value: float) -> None:
        """Replace one value; whoever has asked for the array before may see it or not."""
        if not self._is_own:
            self._held, self._is_own = self._held.copy(), True
        self._held[at] = value

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add values at the end."""
        if not len(values):
            return
        count = self._count + len(values)
        if count > len(self._held):
            held = np.empty(count + count // 2, self._held.dtype)
            held[: self._count] = self.array
            self._held, self._is_own = held, True
        self._held[self._count : count] = values
        self._count = count
