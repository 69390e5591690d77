"""Robust trends of short series."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, pairwise
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of normally distributed noise: the standard deviation over the median of absolute deviations.
SIGMAS_PER_MAD = 1.4826
# Ticks come every N ticks if this share of the gaps between them is N.
SAME_GAPS = 0.8
MINIMUM_GAPS = 4


def theil_sen(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The median slope of all pairs of points (Theil, 1950; Sen, 1968); 0 if all x are equal."""
    slopes = [
        (ys[j] - ys[i]) / (xs[j] - xs[i])
        for i, j in combinations(range(len(xs)), 2)
        if xs[j] != xs[i]
    ]
    return median(slopes) if slopes else 0.0


def mann_kendall(ys: Sequence[float]) -> float:
    """How steadily a series rises, in standard deviations of a series in random order.

    It is the number of pairs that rise minus the number of pairs that fall (Mann, 1945; Kendall,
    1975); negative if the series falls.
    """
    n = len(ys)
    if n < 3:
        return 0.0
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(ys, 2))
    return score / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)


def step(ys: Sequence[float], edge: int) -> tuple[int, bool]:
    """Where a series would jump if it jumped once, and whether a jump describes it well.

    Args:
        ys: the series.
        edge: the least number of values before the jump and after it.

    Returns:
        The index of the first value after the jump, and whether the distances to the two levels
        add up to less than half of the distances to the best line.
    """
    at = min(range(edge, len(ys) - edge + 1), key=lambda i: _distance(ys[:i]) + _distance(ys[i:]))
    xs = range(len(ys))
    slope = theil_sen(xs, ys)
    line = _distance([y - slope * x for x, y in zip(xs, ys, strict=True)])
    return at, _distance(ys[:at]) + _distance(ys[at:]) < line / 2


def edges(count: int, bins: int) -> list[int]:
    """The `bins + 1` indices that divide `count` values into stretches of about equal length."""
    return [count * i // bins for i in range(bins + 1)] if bins else []


def levels(values: Sequence[float], bins: int) -> list[float]:
    """The medians of `bins` stretches of a series, which has at least as many values."""
    return [median(values[begin:end]) for begin, end in pairwise(edges(len(values), bins))]


def period(ticks: Sequence[int]) -> int | None:
    """The number N if the ticks come every N ticks, else None."""
    gaps = [later - earlier for earlier, later in pairwise(ticks)]
    if len(gaps) < MINIMUM_GAPS:
        return None
    gap, count = Counter(gaps).most_common(1)[0]
    return gap if gap > 1 and count >= SAME_GAPS * len(gaps) else None


def _distance(values: Sequence[float]) -> float:
    """The sum of the distances to the median."""
    middle = median(values)
    return sum(abs(value - middle) for value in values)
