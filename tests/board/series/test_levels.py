"""Levels, tracks and smoothing grow at their end, and are what they would be if made at once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.board.series import levels as levels_module
from metronorm.board.series._arrays import is_missing, missing
from metronorm.board.series.levels import Levels
from metronorm.board.series.smoothing import Smoothed
from metronorm.board.series.tracks import Track

pieces = st.lists(st.integers(0, 700), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(pieces=pieces, seed=st.integers(0, 2**32))
def test_extremes_of_any_stretches(pieces: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=sum(pieces) * 8 + 1)
    grown = Levels()
    edges = np.unique(rng.integers(0, len(values) + 1, 2 * rng.integers(1, 40)))
    starts, ends = edges[:-1], edges[1:]
    if rng.random() < 0.5:  # with something between them
        starts, ends = starts[::2], ends[::2]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(levels_module, "_DIRECT", 0)
        for end in np.cumsum(pieces) * 8 + 1:
            grown.extremes(values[:end], np.array([0]), np.array([end]))
        found = grown.extremes(values, starts, ends)
    both = grown.extremes(values, starts, ends)
    stretches = [values[start:end] for start, end in zip(starts, ends, strict=True)]
    for low, high in (found, both):
        assert low.tolist() == [stretch.min() for stretch in stretches]
        assert high.tolist() == [stretch.max() for stretch in stretches]


@settings(max_examples=60, deadline=None)
@given(pieces=pieces, seed=st.integers(0, 2**32), positive=st.booleans())
def test_a_track_grows(pieces: list[int], seed: int, positive: bool) -> None:
    rng = np.random.default_rng(seed)
    column = rng.normal(size=sum(pieces))
    for value, share in ((missing(1)[0], 0.3), (math.nan, 0.1), (math.inf, 0.05)):
        start = rng.integers(len(column) + 1)  # at first, all may be there
        column[start:][rng.random(len(column) - start) < share * rng.integers(2)] = value
    track = Track(positive=positive)
    for end in np.cumsum(pieces):
        track.extend(column[:end])
    points = track.points(np.arange(len(column), dtype=float))
    (logged,) = np.nonzero(~is_missing(column))
    good = np.isfinite(column[logged]) & ((column[logged] > 0) | (not positive))
    assert len(track) == len(logged)
    assert points.x.tolist() == logged.tolist()
    assert points.finite.tolist() == column[logged][good].tolist()
    assert points.bad.tolist() == np.flatnonzero(~good).tolist()
    for number, point in enumerate(np.flatnonzero(good)):
        assert points.finite_point(number) == point
    assert points.finite_before(np.arange(len(logged) + 1)).tolist() == [
        int(good[:end].sum()) for end in range(len(logged) + 1)
    ]


@settings(max_examples=15, deadline=None)
@given(pieces=pieces, weight=st.sampled_from([0.0, 0.5, 0.9, 0.999]), seed=st.integers(0, 99))
def test_smoothing_is_a_mean_of_all_values_until_there(
    pieces: list[int], weight: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(3.0, size=sum(pieces))
    smoothed = Smoothed(weight)
    for end in np.cumsum(pieces):
        smoothed.extend(values[:end])
    weighted = total = 0.0
    for value, found in zip(values, smoothed.values, strict=True):
        weighted, total = weight * weighted + value, weight * total + 1
        assert found == pytest.approx(weighted / total, rel=1e-9)


def test_smoothing_of_the_largest_numbers_stays_finite() -> None:
    smoothed = Smoothed(0.99)
    smoothed.extend(np.full(300, 1.7e308))
    assert np.allclose(smoothed.values, 1.7e308, rtol=1e-12)
