"""Before and after on the same rows: means, their difference, and a paired bootstrap interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_RESAMPLES = 2000


class Difference(NamedTuple):
    """How a figure changed, and between which values the change lies in 95 of 100 samples.

    The interval is the percentile bootstrap over rows (Efron and Tibshirani, 1993, chapter 13):
    the same rows are drawn for before and after, so what makes a row hard cancels out.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before


def difference(
    before: NDArray[np.float64] | None,
    after: NDArray[np.float64],
    figure: Callable[[NDArray[np.float64]], float],
    *,
    seed: int = 0,
) -> Difference:
    """The figure of all rows before and after, and the interval of its change.

    Args:
        before: (rows, sums) what each row adds to the sums that the figure is made of. None: there
            is one model alone, and all but `after` is NaN.
        after: the same rows.
        figure: of such an array, for example `ratio`.
        seed: of the rows that are drawn.

    Returns:
        With an interval of NaN where there is one row.
    """
    if before is None:
        return Difference(math.nan, figure(after), math.nan, math.nan)
    rng = np.random.default_rng(seed)
    rows = len(before)
    changes = []
    for _ in range(_RESAMPLES if rows > 1 else 0):
        drawn = rng.integers(rows, size=rows)
        changes.append(figure(after[drawn]) - figure(before[drawn]))
    low, high = np.percentile(changes, (2.5, 97.5)) if changes else (np.nan, np.nan)
    return Difference(figure(before), figure(after), float(low), float(high))


def ratio(rows: NDArray[np.float64]) -> float:
    """The first column's sum over the second's: a loss per token, a share of rows."""
    sums = rows.sum(axis=0)
    return float(sums[0] / sums[1])


def macro_f1(rows: NDArray[np.float64]) -> float:
    """The mean over classes of F1, of rows of a label and a prediction; classes that occur."""
    labels, predictions = rows[:, 0].astype(int), rows[:, 1].astype(int)
    classes = int(max(labels.max(), predictions.max())) + 1
    right = np.bincount(labels[labels == predictions], minlength=classes)
    counts = np.bincount(labels, minlength=classes) + np.bincount(predictions, minlength=classes)
    there = counts > 0
    return float((2 * right[there] / counts[there]).mean())
