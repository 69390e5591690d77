"""Figures before and after, and the interval of their change."""

import numpy as np
import pytest

from metronorm.finetune.paired import difference, macro_f1, ratio


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    assert ratio(np.array([[1.0, 1.0], [9.0, 3.0]])) == 2.5


def test_macro_f1_by_hand() -> None:
    rows = np.array([[0, 0], [0, 1], [1, 1], [2, 1]])  # label, prediction
    # class 0: 2·1/(2+1); class 1: 2·1/(1+3); class 2: never right
    assert macro_f1(rows) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_the_interval_pairs_rows() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(5, 3, (400, 1))  # rows differ far more than the two models do
    ones = np.ones_like(hard)
    before = np.hstack([hard, ones])
    after = np.hstack([hard - 0.1 + rng.normal(0, 0.05, hard.shape), ones])
    found = difference(before, after, ratio)
    assert found.low < -0.1 < found.high < 0
    assert found.high - found.low < 0.02
    assert found.change == pytest.approx(-0.1, abs=0.01)


def test_the_interval_covers_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        before = np.hstack([rng.normal(0, 1, (60, 1)), np.ones((60, 1))])
        after = before + np.hstack([rng.normal(0.5, 1, (60, 1)), np.zeros((60, 1))])
        found = difference(before, after, ratio, seed=seed)
        covered += found.low <= 0.5 <= found.high
    assert 88 <= covered <= 99


def test_one_row_has_no_interval() -> None:
    found = difference(np.array([[2.0, 1.0]]), np.array([[1.0, 1.0]]), ratio)
    assert (found.before, found.after) == (2.0, 1.0)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
