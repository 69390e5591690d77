"""Exponential smoothing over every value, before anything is reduced."""

from __future__ import annotations

import numpy as np

from metronorm.board.series._arrays import Floats, Growing
from metronorm.board.series.levels import Levels

_BLOCK = 64


class Smoothed:
    """The smoothed values of a line that grows at its end, and their levels.

    Each is the mean of all values until there. A value counts `weight` times as much as the next.

    Args:
        weight: at least 0, which changes nothing, and less than 1.
    """

    def __init__(self, weight: float) -> None:
        self.levels = Levels()
        self._weight = weight
        self._smooth = Growing(np.empty(0))
        self._sum = 0.0

    @property
    def values(self) -> Floats:
        """The smoothed values."""
        return self._smooth.array

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return self._smooth.nbytes + self.levels.nbytes

    def extend(self, values: Floats) -> None:
        """Take in the values at the end that are new; those before must be the same."""
        done = len(self._smooth)
        # weights that add up to 1 keep the sum of huge values finite
        sums = _decaying_sum(values[done:] * (1 - self._weight), self._weight, self._sum)
        if not len(sums):
            return
        self._sum = float(sums[-1])
        powers = np.arange(done + 1, len(values) + 1)
        self._smooth.append(sums / -np.expm1(powers * _log(self._weight)))


def _log(weight: float) -> float:
    return float(np.log(weight)) if weight > 0 else -np.inf


def _decaying_sum(values: Floats, weight: float, before: float) -> Floats:
    """The sums s[i] = weight * s[i - 1] + values[i], where s[-1] is `before`.

    Within blocks by a product of matrices, then from block to block.
    """
    blocks = -(-len(values) // _BLOCK)
    padded = np.zeros((blocks, _BLOCK))
    padded.ravel()[: len(values)] = values
    steps = np.arange(_BLOCK)
    decay = np.tril(float(weight) ** np.abs(steps[:, None] - steps))
    sums: Floats = padded @ decay.T
    carried = np.empty(blocks)
    over_block = weight**_BLOCK
    for block, last in enumerate(sums[:, -1].tolist()):
        carried[block] = before
        before = over_block * before + last
    sums += carried[:, None] * weight ** (steps + 1.0)
    return sums.ravel()[: len(values)]
