import math
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.runs.pyramid import Pyramid, pyramid

from ..store.stores import line, new_run, write_tape

values = st.none() | st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), values), max_size=80, unique_by=lambda pair: pair[0]),
    st.integers(2, 30),
)
def test_no_spike_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    said: list[tuple[int, float | None]],
    points: int,
) -> None:
    """Each stretch, as it is told, against the values that are in it."""
    run = new_run(tmp_path_factory.mktemp("pyramid") / "run")
    lines = [line(1, {"loss": 0.0})]
    for tick, value in said:
        told = {} if value is None else {"loss": value if math.isfinite(value) else str(value)}
        lines.append(line(tick + 1, told))
    write_tape(run, lines)
    there = sorted([(1, 0.0)] + [(tick + 1, value) for tick, value in said if value is not None])
    found = pyramid(open_run(run).ticks(), "loss", points=points)
    assert len(found.low) + len(found.high) <= points
    assert found.ticks == sorted(set(found.ticks))
    assert {tick for tick, _ in there} >= set(found.ticks)
    stretches: list[list[float]] = [[] for _ in found.ticks]
    for tick, value in there:
        stretches[bisect_right(found.ticks, tick) - 1].append(value)
    finite = [[value for value in stretch if math.isfinite(value)] for stretch in stretches]
    assert found.low == [min(stretch, default=None) for stretch in finite]
    assert found.high == [max(stretch, default=None) for stretch in finite]
    assert found.not_finite == [
        len(stretch) - len(kept) for stretch, kept in zip(stretches, finite, strict=True)
    ]
    # and no stretch is longer than it has to be
    span = max(tick for tick, _ in [(1, 0), *said]) + 1
    wide = -(-span // (points // 2))
    assert all(
        max(tick for tick, _ in there if tick < following) - tick < wide
        for tick, following in pairwise([*found.ticks, span + 2])
    )


def test_every_value_is_kept_where_there_are_few(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(tick, {"loss": 10.0 * tick}) for tick in (1, 2, 5)])
    found = pyramid(open_run(run).ticks(), "loss")
    assert found == Pyramid([1, 2, 5], [10, 20, 50], [10, 20, 50], [0, 0, 0])


def test_ranks_are_in_one_curve(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for rank in range(3):
        write_tape(run, [line(1, {"loss": rank}), line(2, {"loss": -rank})], rank=rank)
    found = pyramid(open_run(run).ticks(), "loss")
    assert found == Pyramid([1, 2], [0, -2], [2, 0], [0, 0])


def test_what_has_no_curve(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    assert pyramid(open_run(run).ticks(), "wall_ns") == Pyramid([], [], [], [])
    write_tape(run, [line(1)])
    with pytest.raises(ConfigError, match="one of loss"):
        pyramid(open_run(run).ticks(), "accuracy")
    with pytest.raises(ConfigError, match="at least 2"):
        pyramid(open_run(run).ticks(), "loss", points=1)


@pytest.mark.parametrize("name", ["first", "span", "stretch", "finite", "bounds", 'a "b"'])
def test_names_that_the_query_could_mean(tmp_path: Path, name: str) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(tick, {name: 10.0 * tick}) for tick in (1, 2)])
    assert pyramid(open_run(run).ticks(), name) == Pyramid([1, 2], [10, 20], [10, 20], [0, 0])
