"""A run's columns as `open_run` reads them: also while it is written, resumed and sealed."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from metronorm.board.series import Chart, RunSeries
from metronorm.clock import Clock
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.store.sealing import seal_run

from ...clock.virtual import VirtualTime
from ...store.stores import bits, line, new_run, write_tape

MILLISECOND = 1_000_000


def record(run: Path, first: int, last: int, *, resume: bool = False, **options: Any) -> None:
    """Ticks with a metric at each, one now and then, and one that is logged after its tick."""
    time = VirtualTime()
    with Clock(run, resume=resume, progress=False, now=time, **options) as clock:
        for tick in clock.ticks(range(first, last + 1), initial=first - 1):
            with clock.phase("forward"):
                time.pass_(tick % 7 * MILLISECOND)
            clock.log(loss=math.nan if tick == 5 else 1 / tick, tokens=64)
            if tick % 10 == 0:
                clock.log(accuracy=tick / 100)


def drawn(series: RunSeries, name: str, **options: Any) -> tuple[list[float], list[float]]:
    """The points of a line with few of them; NaN and infinities are no points."""
    found = series.reduce([name], **options)
    arrays = {column.kind: column.values for column in found.columns if column.track == 0}
    return arrays["x"].tolist(), arrays["y"].tolist()


def expected(run: Path, name: str) -> tuple[list[float], list[float]]:
    rows = open_run(run).ticks().only("tick", "rank", name)
    pairs = rows.fetch(f'select tick, "{name}" from ticks where rank = 0 order by tick')
    pairs = [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def same(series: RunSeries, run: Path) -> None:
    series.refresh()
    ticks = open_run(run).ticks()
    assert sorted(series.names()) == sorted(ticks.metrics)
    assert sorted(series.phases()) == sorted(ticks.phases)
    for name in (*ticks.metrics, "wall_ns", *(f"{phase}_ns" for phase in ticks.phases)):
        assert drawn(series, name) == expected(run, name), name


def test_the_columns_of_a_run(tmp_path: Path, shared: Path) -> None:
    record(tmp_path / "run", 1, 40)
    series = RunSeries(tmp_path / "run")
    assert series.names() == ["loss", "tokens", "accuracy"]
    same(series, tmp_path / "run")
    found = series.reduce(["loss"])
    (track,) = found.meta["tracks"]
    assert (track["rows"], track["nan"], track["first_nan"]) == (40, 1, 5)
    assert found.meta["extent"] == (1.0, 40.0)
    names = [track["name"] for track in series.reduce(["lost", "loss"]).meta["tracks"]]
    assert names == ["loss"]
    for wrong in ({"width": 0}, {"begin": 2, "end": 2}, {"smooth": 1}, {"end": math.nan}):
        with pytest.raises(ConfigError):
            series.reduce(["loss"], Chart(**wrong))


def test_a_run_is_read_on_while_it_is_written_and_sealed(tmp_path: Path, shared: Path) -> None:
    run, time = tmp_path / "run", VirtualTime()
    with Clock(run, progress=False, now=time) as clock:
        series = RunSeries(run)
        cursors = [series.refresh()]
        for tick in clock.ticks(range(1, 31)):
            with clock.phase("forward"):
                time.pass_(MILLISECOND)
            clock.log(loss=1 / tick)
            if tick % 10 == 0:
                cursors.append(series.refresh())
                assert drawn(series, "loss")[0] == list(range(1, tick))
            if tick == 20:
                assert cursors[-1] == series.refresh()
    same(series, run)
    generation = series.refresh().split(".")[1]
    assert len(set(cursors)) == 4
    seal_run(run)
    same(series, run)
    assert series.refresh().split(".")[1] == generation
    assert drawn(RunSeries(run), "loss") == expected(run, "loss")


def test_a_resumed_run_has_ghosts(tmp_path: Path, shared: Path) -> None:
    run = tmp_path / "run"
    record(run, 1, 30)
    series = RunSeries(run)
    assert drawn(series, "loss")[0][-1] == 30
    record(run, 21, 25, resume=True)
    same(series, run)
    assert drawn(series, "loss")[0][-1] == 25
    found = series.reduce(["loss"], ghosts=True)
    own, ghost = found.meta["tracks"]
    assert (own["ghost"], ghost["ghost"]) == (None, {"attempt": 0, "by": 1})
    xs = [column.values.tolist() for column in found.columns if column.kind == "x"]
    assert xs[1] == list(range(21, 31))
    assert found.meta["extent"] == (1.0, 30.0)
    # what was counted goes on from where the ghost was left behind
    for axis, first in (("tokens", 21 * 64), ("tick", 21)):
        found = series.reduce(["loss"], x=axis, ghosts=True)  # type: ignore[arg-type]
        xs = [column.values.tolist() for column in found.columns if column.kind == "x"]
        assert xs[1][0] == xs[0][xs[0].index(first)] == first


def test_values_logged_after_a_tick_are_in_its_row(tmp_path: Path, shared: Path) -> None:
    run, time = tmp_path / "run", VirtualTime()
    with Clock(run, progress=False, now=time) as clock:
        series = RunSeries(run)
        for tick in clock.ticks(range(1, 9)):
            with clock.phase("forward"):
                time.pass_(MILLISECOND)
            clock.log(loss=1 / tick)
            series.refresh()
        for _ in range(2):
            with clock.phase("evaluate"):
                time.pass_(5 * MILLISECOND)
            clock.log(accuracy=0.5, loss=7.0)
            same(series, run)
    same(series, run)
    assert drawn(series, "loss")[1][-1] == 7
    assert drawn(series, "evaluate_ns") == ([8], [10 * MILLISECOND])


def test_axes(tmp_path: Path, shared: Path) -> None:
    run = new_run(tmp_path / "run")
    begin = 1_800_000_000_000_000_000
    ticks = [
        line(tick, {"loss": float(tick), "tokens": 10.0 * tick}, time_ns=begin + 100 * tick,
             wall_ns=50)
        for tick in range(1, 5)
    ]  # fmt: skip
    ticks[2] = line(3, {"loss": 3.0, "tokens": 30.0}, time_ns=begin, wall_ns=50)  # set back
    write_tape(run, ticks)
    write_tape(run, [line(2, {"tokens": 1.0})], rank=1)
    series = RunSeries(run)
    assert drawn(series, "loss", x="tick")[0] == [1, 2, 3, 4]
    assert drawn(series, "loss", x="tokens")[0] == [10, 31, 61, 101]
    assert drawn(series, "loss", x="elapsed")[0] == [50, 150, 150, 350]
    assert drawn(series, "loss", x="training")[0] == [50, 100, 150, 200]
    assert drawn(series, "loss", x="time")[0] == [
        (begin + later) / 1e6 for later in (100, 200, 200, 400)
    ]
    assert series.ranks == [0, 1]
    assert drawn(series, "tokens", rank=1) == ([2], [1])
    with pytest.raises(ConfigError, match="axis must be one of"):
        series.reduce(["loss"], x="epoch")  # type: ignore[arg-type]


def test_names_that_differ_in_case_are_one_column(tmp_path: Path, shared: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(1, {"Loss": 1.0})], [line(2, {"loss": 2.0})])
    series = RunSeries(run)
    assert series.names() == ["Loss"]
    assert drawn(series, "loss") == drawn(series, "Loss") == ([1, 2], [1, 2])
    seal_run(run)
    series.refresh()
    assert drawn(series, "loss") == ([1, 2], [1, 2])


def test_a_damaged_part_is_left_out(tmp_path: Path, shared: Path) -> None:
    run = new_run(tmp_path / "run")
    lines = [line(tick) for tick in range(1, 10)]
    folder = write_tape(run, lines[:3], lines[3:6], lines[6:])
    seal_run(run)
    part = folder / "part-00001.parquet"
    part.write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    series = RunSeries(run)
    assert drawn(series, "loss")[0] == [1, 2, 3, 7, 8, 9]
    assert [str(part) in notice for notice in series.notices()] == [True]


def test_the_bytes_of_an_answer(tmp_path: Path, shared: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(
        run, [line(tick, {"loss": value}) for tick, value in enumerate((1.5, "nan", 2.5), 1)]
    )
    found = RunSeries(run).reduce(["loss"], Chart(width=10))
    data = found.to_bytes()
    length = int.from_bytes(data[:4], "little")
    header, at = msgspec.json.decode(data[4 : 4 + length]), 4 + length
    assert at % 8 == 0
    assert header["meta"]["tracks"][0]["nan"] == 1
    for described, column in zip(header["columns"], found.columns, strict=True):
        kind = {"f8": "<f8", "i4": "<i4", "u1": "u1"}[described["type"]]
        values = np.frombuffer(data, kind, described["length"], at)
        assert bits(values.tolist()) == bits(column.values.tolist())
        at += -(-values.nbytes // 8) * 8
    assert at == len(data)
