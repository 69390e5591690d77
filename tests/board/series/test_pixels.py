"""What is sent has the pixels of all points, on uPlot's own rules, drawn without anti-aliasing."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.board.series._arrays import Floats
from metronorm.board.series.pixels import View
from metronorm.board.series.reducing import add_marks, reduce_line
from metronorm.board.series.tracks import Points, Track

from .expanding import expand, hidden
from .uplot import Plot, draw

SCALES = ("linear", "log", "asinh")


def points_of(x: Floats, y: Floats) -> Points:
    track = Track()
    track.extend(y)
    return track.points(x)


def same_pixels(x: Floats, y: Floats, view: View, height: int = 40) -> None:
    line = reduce_line(points_of(x, y), view)
    sent = expand(line, view)
    everything = x.tolist(), [value if math.isfinite(value) else None for value in y.tolist()]
    inside = y[(x >= view.begin) & (x <= view.end) & np.isfinite(y)]
    for scale in SCALES:
        shown = inside[inside > 0] if scale == "log" else inside
        low, high = (float(shown.min()), float(shown.max())) if len(shown) else (1.0, 2.0)
        plot = Plot(
            view.begin,
            view.end,
            int(view.width),
            height,
            low,
            high if high > low else low + 1,
            scale,
            int(view.left),
        )
        whole, reduced = draw(*everything, plot), draw(*sent, plot, hidden(line))
        assert np.array_equal(whole, reduced), (scale, np.argwhere(whole != reduced)[:5].tolist())


class Case(NamedTuple):
    """A line and a view, in few numbers."""

    seed: int
    count: int
    kind: str
    wander: float
    spike: float
    spoiled: float  # the share of values that are not finite
    hole: bool  # a stretch without any finite value
    width: int
    left: int
    where: float  # the view, in lengths of the line; over all of it if `size` is 1
    size: float
    whole_edges: bool

    def line(self) -> tuple[Floats, Floats]:
        rng = np.random.default_rng(self.seed)
        count = self.count
        x = {
            "ticks": np.arange(1.0, count + 1),
            "far ticks": np.arange(1.0, count + 1) + 2**40,
            "time": 1.7e12 + np.cumsum(rng.exponential(20.0, count)),
            "pauses": np.cumsum(np.where(rng.random(count) < 0.02, 500.0, rng.random(count))),
            "tokens": np.cumsum(rng.integers(0, 3, count)).astype(float),
        }[self.kind]
        y = np.cumsum(rng.normal(size=count)) * self.wander + rng.normal(size=count)
        y[rng.integers(count)] = self.spike
        bad = rng.random(count) < self.spoiled
        y[bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
        if self.hole:
            first = rng.integers(count)
            y[first : first + rng.integers(1, count + 1)] = np.nan
        return x, y

    def view(self, x: Floats) -> View:
        first, span = float(x[0]), max(float(x[-1] - x[0]), 1.0)
        if self.size == 1:
            return View(first, first + span, self.width, self.left)
        begin, size = first + span * self.where, max(span * self.size, 1e-3)
        if self.whole_edges:
            begin, size = float(math.floor(begin)), float(math.ceil(size))
        return View(begin, begin + size, self.width, self.left)


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    count=st.one_of(st.integers(1, 40), st.integers(200, 1500)),
    kind=st.sampled_from(["ticks", "far ticks", "time", "pauses", "tokens"]),
    wander=st.sampled_from([0.0, 1e-3, 1.0]),
    spike=st.sampled_from([0.0, 1e3, -1e3, 50.0]),
    spoiled=st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.5, 0.98]),
    hole=st.booleans(),
    width=st.integers(8, 90),
    left=st.sampled_from([0, 0, 57]),
    where=st.floats(-0.5, 1.2),
    size=st.sampled_from([1e-3, 0.01, 0.1, 0.3, 0.9, 1, 2.0]),
    whole_edges=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_what_is_sent_has_the_pixels_of_all_points(case: Case) -> None:
    x, y = case.line()
    same_pixels(x, y, case.view(x))


@pytest.mark.parametrize("width", [64, 100, 333])
def test_a_spike_and_a_nan_of_one_tick_stay_at_every_zoom(width: int) -> None:
    rng = np.random.default_rng(7)
    x = np.arange(1.0, 20_001)
    y = 5 / np.sqrt(x) + 0.05 * rng.random(20_000)
    y[7776], y[3333] = 1e3, np.nan
    begin, end = 1.0, 20_000.0
    while end - begin > 20:
        view = View(begin, end, width)
        line = reduce_line(points_of(x, y), view)
        name = "max" if line.kind == "columns" else "y"
        assert np.nanmax(line.arrays[name]) == 1e3
        add_marks(line, points_of(x, y), view)
        assert line.first_nan == 3334
        same_pixels(x, y, view)
        begin, end = begin + (7777.3 - begin) / 3, end - (end - 7777.3) / 3
