import math
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.runs.curves import POINTS, Curve, Curves, read_curve

from ..store.stores import line, new_run, write_tape

values = st.none() | st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
NOTHING = Curve()


def curve_of(values: dict[int, float]) -> Curve:
    """A curve with a stretch for each value."""
    numbers = [*values.values()]
    return Curve([*values], numbers, numbers, numbers, [0] * len(values))


def check(curve: Curve, there: list[tuple[int, float]]) -> None:
    """Compare each stretch of a curve with the values in it."""
    assert curve.ticks == sorted(set(curve.ticks))
    assert {tick for tick, _ in there} >= set(curve.ticks)
    stretches: list[list[float]] = [[] for _ in curve.ticks]
    for tick, value in there:
        stretches[bisect_right(curve.ticks, tick) - 1].append(value)
    finite = [[value for value in stretch if math.isfinite(value)] for stretch in stretches]
    assert curve.low == [min(stretch, default=None) for stretch in finite]
    assert curve.high == [max(stretch, default=None) for stretch in finite]
    assert curve.not_finite == [
        len(stretch) - len(kept) for stretch, kept in zip(stretches, finite, strict=True)
    ]
    for mean, kept in zip(curve.mean, finite, strict=True):
        total = sum(kept)
        if not kept or not math.isfinite(total):
            assert mean is None
        else:
            size = max(map(abs, kept))
            assert mean == pytest.approx(total / len(kept), rel=1e-12, abs=1e-12 * size)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), values), max_size=80, unique_by=lambda pair: pair[0]),
    st.integers(1, 15),
)
def test_no_extreme_and_no_nan_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    logged: list[tuple[int, float | None]],
    stretches: int,
) -> None:
    run = new_run(tmp_path_factory.mktemp("curves") / "run")
    lines = [line(1, {"loss": 0.0})]
    for tick, value in logged:
        metrics = {} if value is None else {"loss": value if math.isfinite(value) else str(value)}
        lines.append(line(tick + 1, metrics))
    write_tape(run, lines)
    there = sorted([(1, 0.0)] + [(tick + 1, value) for tick, value in logged if value is not None])
    ticks = open_run(run).ticks()
    found = read_curve(ticks, "loss", stretches=stretches)
    assert len(found.ticks) <= stretches
    check(found, there)
    # and no stretch is longer than necessary
    span = max(tick for tick, _ in [(1, 0), *logged]) + 1
    wide = -(-span // stretches)
    assert all(
        max(tick for tick, _ in there if tick < following) - tick < wide
        for tick, following in pairwise([*found.ticks, span + 2])
    )
    at_once = Curves(ticks).curve("loss")
    assert len(at_once.ticks) <= POINTS
    check(at_once, there)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5 * POINTS), st.floats()), min_size=1, max_size=60))
def test_a_growing_curve_loses_none_either(
    tmp_path_factory: pytest.TempPathFactory, logged: list[tuple[int, float]]
) -> None:
    """A tick may come more than once, as of several ranks; stretches are merged on the way."""
    empty = new_run(tmp_path_factory.mktemp("curves") / "run")
    logged.sort(key=lambda pair: pair[0])
    curves = Curves(open_run(empty).ticks())
    for tick, value in logged:
        curves.add(tick, {"loss": value if math.isfinite(value) else str(value)})
    found = curves.curve("loss")
    assert len(found.ticks) <= POINTS
    check(found, logged)
    assert curves.latest["loss"] == logged[-1][1] or math.isnan(logged[-1][1])


def test_every_value_is_kept_where_there_are_few(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(tick, {"loss": 10.0 * tick}) for tick in (1, 2, 5)])
    ticks = open_run(run).ticks()
    expected = curve_of({1: 10, 2: 20, 5: 50})
    assert read_curve(ticks, "loss") == Curves(ticks).curve("loss") == expected
    assert expected.points(0.1) == [(1, 1), (2, 2), (5, 5)]


def test_ranks_are_in_one_curve(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for rank in range(3):
        write_tape(run, [line(1, {"loss": rank}), line(2, {"loss": -rank})], rank=rank)
    ticks = open_run(run).ticks()
    expected = Curve([1, 2], [0, -2], [2, 0], [1, -1], [0, 0])
    assert read_curve(ticks, "loss") == Curves(ticks).curve("loss") == expected
    assert read_curve(ticks, "loss", rank=2) == curve_of({1: 2, 2: -2})


def test_what_has_no_curve(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    assert read_curve(open_run(run).ticks(), "wall_ns") == NOTHING
    write_tape(run, [line(1)])
    ticks = open_run(run).ticks()
    assert Curves(ticks).curve("accuracy") == read_curve(ticks, "loss", rank=7) == NOTHING
    with pytest.raises(ConfigError, match="one of loss"):
        read_curve(ticks, "accuracy")
    with pytest.raises(ConfigError, match="at least 1 stretch"):
        read_curve(ticks, "loss", stretches=0)


@pytest.mark.parametrize(
    "name", ["first", "span", "number", "seen", "metric", "value", "finite", "bounds", 'a "b"']
)
def test_names_that_the_query_could_mean(tmp_path: Path, name: str) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(tick, {name: 10.0 * tick}) for tick in (1, 2)])
    ticks = open_run(run).ticks()
    expected = curve_of({1: 10, 2: 20})
    assert read_curve(ticks, name) == Curves(ticks).curve(name) == expected
