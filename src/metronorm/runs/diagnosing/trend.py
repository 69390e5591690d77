"""Robust trends of short series."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, pairwise
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# of normally distributed noise the median of absolute deviations is this much less than sigma
SIGMAS_PER_MAD = 1.4826
# of the gaps between ticks so many must be the same to say that they come every N ticks
SAME_GAPS = 0.8
MINIMUM_GAPS = 4


def theil_sen(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The median of the slopes of all pairs (Theil, 1950; Sen, 1968); 0 without two places."""
    slopes = [
        (ys[j] - ys[i]) / (xs[j] - xs[i])
        for i, j in combinations(range(len(xs)), 2)
        if xs[j] != xs[i]
    ]
    return median(slopes) if slopes else 0.0


def mann_kendall(ys: Sequence[float]) -> float:
    """How consistently a series rises, in standard deviations of a series in random order.

    Mann (1945), Kendall (1975): pairs that rise less pairs that fall; negative where it falls.
    """
    n = len(ys)
    if n < 3:
        return 0.0
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(ys, 2))
    return score / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)


def step(ys: Sequence[float], edge: int) -> tuple[int, bool]:
    """Where a series that jumps once would jump, and whether that describes it.

    Args:
        ys: the series.
        edge: values that must lie on either side.

    Returns:
        The index of the first value behind the jump, and whether two levels leave less than half
        of what the best line leaves of the series.
    """
    at = min(range(edge, len(ys) - edge + 1), key=lambda i: _rest(ys[:i]) + _rest(ys[i:]))
    xs = range(len(ys))
    slope = theil_sen(xs, ys)
    line = _rest([y - slope * x for x, y in zip(xs, ys, strict=True)])
    return at, _rest(ys[:at]) + _rest(ys[at:]) < line / 2


def period(ticks: Sequence[int]) -> int | None:
    """N if the ticks come every N ticks."""
    gaps = [later - earlier for earlier, later in pairwise(ticks)]
    if len(gaps) < MINIMUM_GAPS:
        return None
    gap, count = Counter(gaps).most_common(1)[0]
    return gap if gap > 1 and count >= SAME_GAPS * len(gaps) else None


def _rest(values: Sequence[float]) -> float:
    middle = median(values)
    return sum(abs(value - middle) for value in values)
