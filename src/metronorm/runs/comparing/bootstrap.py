"""The moving-block bootstrap: how far a figure of a noisy series can be trusted.

Neighbouring ticks are alike (a warm machine, another program), so an interval from single ticks
drawn at random would be too narrow. The bootstrap draws whole blocks of neighbours: H. R. Künsch,
"The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17
(1989). The length of a block is from D. N. Politis and H. White, "Automatic block-length selection
for the dependent bootstrap", Econometric Reviews 23 (2004), corrected by A. Patton, D. N. Politis
and H. White, Econometric Reviews 28 (2009).
"""

from __future__ import annotations

import math
from itertools import accumulate
from operator import mul
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

QUIET_LAGS = 5  # insignificant autocorrelations in a row that end the memory of a series
SHARE = 0.95


def block_length(series: Sequence[float]) -> int:
    """The length of blocks for the autocorrelation of a series (Politis and White).

    If the series repeats itself, as with an evaluation every hundred ticks, a block has at least
    one period. A block is never longer than a third of the series, and longer than three times the
    square root of the series' length only if the period is.
    """
    count = len(series)
    mean = fmean(series)
    centred = [value - mean for value in series]
    last_lag = min(math.ceil(math.sqrt(count)) + QUIET_LAGS, count - 1)
    far = max(last_lag, count // 3)
    covariances = [sum(map(mul, centred, centred[lag:])) / count for lag in range(far + 1)]
    if covariances[0] <= 0:
        return 1
    period = max(range(1, far + 1), key=covariances.__getitem__)
    if covariances[period] < covariances[0] / 2:
        period = 1
    length = math.ceil(min(_optimum(covariances[: last_lag + 1], count), 3 * math.sqrt(count)))
    return max(1, min(max(length, period), count // 3))


def _optimum(covariances: Sequence[float], count: int) -> float:
    """The length that minimizes the bias and the variance of the bootstrap's spread."""
    last_lag = len(covariances) - 1
    significant = 2 * math.sqrt(math.log10(count) / count) * covariances[0]
    loud = [lag for lag in range(1, last_lag + 1) if abs(covariances[lag]) >= significant]
    memory = 0
    while any(memory < lag <= memory + QUIET_LAGS for lag in loud):
        memory += 1
    window = min(2 * max(memory, 1), last_lag)
    spectrum, slope = covariances[0], 0.0
    for lag in range(1, window + 1):
        weight = min(1.0, 2 * (1 - lag / window))  # the flat-top kernel
        spectrum += 2 * weight * covariances[lag]
        slope += 2 * weight * lag * covariances[lag]
    return math.cbrt(1.5 * (slope / spectrum) ** 2 * count) if spectrum > 0 else math.inf


def resampled_sums(
    columns: Sequence[Sequence[float]], length: int, resamples: int, random: Random
) -> list[list[float]]:
    """Sum every column over resamples of its rows, which are drawn in blocks of `length` rows.

    A resample has as many rows as the columns, and the same rows in all columns. The last block is
    shorter if `length` does not divide the number of rows.

    Returns:
        For each column, one sum per resample.
    """
    count = len(columns[0])
    blocks, rest = divmod(count, length)
    whole = [_block_sums(column, length) for column in columns]
    part = [_block_sums(column, rest) for column in columns]
    found: list[list[float]] = [[] for _ in columns]
    for _ in range(resamples):
        starts = random.choices(range(count - length + 1), k=blocks)
        last = random.randrange(count - rest + 1)
        for sums, all_blocks, cut_blocks in zip(found, whole, part, strict=True):
            sums.append(sum(map(all_blocks.__getitem__, starts)) + cut_blocks[last])
    return found


def interval(ratio: float, resampled: Sequence[float], blocks: float) -> tuple[float, float]:
    """The 95% interval of a ratio: 2.5% of the resampled ratios lie below it, and 2.5% above it.

    A few blocks underestimate their spread. The interval is therefore widened, as Student did for
    the mean of a few numbers: on the logarithm, by the square root of `blocks / (blocks - 1)` and
    by the ratio of Student's quantile to the normal one (expanded in the degrees of freedom).
    """
    ordered = sorted(resampled)
    outside = round(len(ordered) * (1 - SHARE) / 2)
    low, high = ordered[outside], ordered[-1 - outside]
    if not 0 < ratio < math.inf:
        return low, high
    square, freedom = 1.96**2, blocks - 1
    student = 1 + (square + 1) / (4 * freedom)
    student += (5 * square**2 + 16 * square + 3) / (96 * freedom**2)
    wider = student * math.sqrt(blocks / freedom)
    return ratio * (low / ratio) ** wider, ratio * (high / ratio) ** wider


def _block_sums(column: Sequence[float], length: int) -> list[float]:
    """The sum of every stretch of `length` neighbours."""
    upto = [0.0, *accumulate(column)]
    return [end - start for start, end in zip(upto, upto[length:], strict=False)]
