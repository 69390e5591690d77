import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.runs.comparing.bootstrap import block_length, interval, resampled_sums

from ..clock.noisy import noise


def ratio_interval(a: list[float], b: list[float], seed: int) -> tuple[float, float]:
    """The interval of the ratio of two means."""
    means, blocks = [], []
    for number, series in enumerate((a, b)):
        length = block_length(series)
        blocks.append(len(series) / length)
        means.append(resampled_sums([series], length, 300, Random(2 * seed + number))[0])
    ratios = [y / x for x, y in zip(*means, strict=True)]
    return interval(sum(b) / sum(a), ratios, min(blocks))


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_intervals_cover_the_truth(memory: float) -> None:
    """The true ratio is 1.1; at least 85% of the intervals of 150 pairs of series contain it."""
    covered = 0
    for seed in range(150):
        a = [10 + value for value in noise(2 * seed, 200, memory)]
        b = [11 + value for value in noise(2 * seed + 1, 200, memory)]
        low, high = ratio_interval(a, b, seed)
        covered += low <= 1.1 <= high
    assert 128 <= covered < 150, "one that always holds it would say nothing"


def test_single_draws_make_intervals_too_narrow() -> None:
    """The reason for blocks: with blocks of 1, intervals of correlated series are too narrow."""
    series = [10 + value for value in noise(1, 1_000, 0.9)]
    widths = []
    for length in (1, block_length(series)):
        (means,) = resampled_sums([series], length, 500, Random(0))
        low, high = interval(sum(series), means, len(series) / length)
        widths.append(high - low)
    assert widths[1] > 2.5 * widths[0]


def test_blocks_are_as_long_as_the_memory() -> None:
    """The best length for an autoregressive series is known (Politis and White, 2004)."""
    count = 4_000
    for memory in (0.3, 0.6, 0.8):
        known = math.cbrt(1.5 * (2 * memory / (1 - memory**2)) ** 2 * count)
        assert block_length(noise(3, count, memory)) == pytest.approx(known, rel=0.3)
    assert block_length(noise(3, count, 0.0)) <= 5
    assert block_length([2.0] * 100) == 1
    assert 10 <= block_length([float(value) for value in range(90)]) <= 30, "a drift"


def test_a_periodic_series_is_drawn_by_whole_periods() -> None:
    series = [10 + 0.1 * value + 50 * (at % 40 == 0) for at, value in enumerate(noise(1, 400))]
    length = block_length(series)
    assert length == 40
    (means,) = resampled_sums([series], length, 300, Random(0))
    low, high = interval(sum(series), means, 400 / length)
    assert high / low < 1.02, "each resample has the slow ticks that there are"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=30),
    st.integers(1, 30),
    st.integers(0, 10**6),
)
def test_a_resample_has_as_many_rows_from_blocks_of_neighbours(
    values: list[int], length: int, seed: int
) -> None:
    length = min(length, len(values))
    ones = [1.0] * len(values)
    counts, sums = resampled_sums([ones, values], length, 20, Random(seed))
    assert counts == [len(values)] * 20
    assert all(min(values) * len(values) <= total <= max(values) * len(values) for total in sums)
    if length == len(values):
        assert sums == [sum(values)] * 20
    assert resampled_sums([values], length, 20, Random(seed)) == [sums], "drawn by the seed alone"


def test_blocks_are_neighbours_and_the_last_one_is_cut() -> None:
    series = [1, 10, 100, 1_000, 10_000]
    pairs = [11, 110, 1_100, 11_000]
    (sums,) = resampled_sums([series], 2, 2_000, Random(0))
    assert set(sums) == {a + b + c for a in pairs for b in pairs for c in series}


def test_few_blocks_widen_an_interval() -> None:
    resampled = [1 + at / 1_000 for at in range(-100, 101)]
    low, high = interval(1.0, resampled, 1_000)
    assert (low, high) == pytest.approx((0.905, 1.095), abs=1e-3)
    # Student's quantile for 9 degrees of freedom is 2.262, the normal one 1.960
    wider = 2.262 / 1.960 * math.sqrt(10 / 9)
    assert interval(1.0, resampled, 10)[1] == pytest.approx(1.095**wider, rel=1e-3)
    assert interval(1.0, [1.0] * 200, 3) == (1.0, 1.0)
    assert interval(math.inf, [math.inf] * 200, 3) == (math.inf, math.inf)
