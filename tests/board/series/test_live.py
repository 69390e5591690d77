"""A view that moves: no extreme is missing, x is right within a pixel, and nothing wobbles."""

import numpy as np
from hypothesis import given, settings

from metronorm.board.series.buckets import reduce_live
from metronorm.board.series.pixels import View

from .test_pixels import Case, cases, points_of


@settings(max_examples=60, deadline=None)
@given(cases)
def test_every_extreme_is_near_its_place(case: Case) -> None:
    x, y = case.line()
    view = case.view(x)
    line = reduce_live(points_of(x, y), view)
    sent_x, sent_y = line.arrays["x"], line.arrays["y"]
    assert (np.diff(sent_x) >= 0).all()
    assert np.isfinite(sent_y).all()
    pixel = (view.end - view.begin) / view.width
    for own_x, own_y in zip(sent_x, sent_y, strict=True):  # nothing is made up
        assert np.abs(x[y == own_y] - own_x).min() <= pixel
    # (of points at the edge itself uPlot draws two)
    (inside,) = np.nonzero((x >= view.begin) & (x < view.end) & np.isfinite(y))
    if len(inside):
        lowest, highest = inside[np.argmin(y[inside])], inside[np.argmax(y[inside])]
        assert sent_y[np.abs(sent_x - x[lowest]) <= pixel].min() <= y[lowest]
        assert sent_y[np.abs(sent_x - x[highest]) <= pixel].max() >= y[highest]


def test_a_growing_line_changes_only_at_its_end() -> None:
    rng = np.random.default_rng(5)
    x, y = np.arange(1.0, 50_001), rng.normal(size=50_000)
    view = View(1.0, 49_000.0, 200)
    size = 128  # the largest power of two that is no wider than a pixel
    before: dict[float, float] = {}
    for count in range(40_000, 49_000, 777):
        line = reduce_live(points_of(x[:count], y[:count]), view)
        own_x, own_y = line.arrays["x"].tolist(), line.arrays["y"].tolist()
        now = dict(zip(own_x, own_y, strict=True))
        assert all(now[place] == value for place, value in before.items())
        before = {place: value for place, value in now.items() if place < count // size * size}
    # nor when the view moves
    moved = reduce_live(points_of(x, y), View(51.0, 49_050.0, 200)).arrays
    still = reduce_live(points_of(x, y), view).arrays
    both = np.intersect1d(moved["x"], still["x"])
    assert len(both) > 1400
    for place in both[10:-10]:
        assert moved["y"][moved["x"] == place] == still["y"][still["x"] == place]
