"""Phases, tick times, ranks, layers and the machine, against the run's own tables."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metronorm.board.series import Reduced, RunSeries, Stretch
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.store.sealing import seal_run
from metronorm.store.tape import encode

from ...store.stores import line, new_run, write_tape

TICKS = 1000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks; every 50th tick evaluates, every third one has no phases."""
    run = new_run(tmp_path_factory.mktemp("runs") / "run")
    rng = np.random.default_rng(3)
    for rank in (0, 1):
        lines = []
        for tick in range(1, TICKS + 1):
            forward, update = (int(ns) for ns in rng.integers(1_000, 9_000, 2))
            phases = {"forward": forward, "update": update, "unattributed": 10}
            if tick % 50 == 0:
                phases["evaluate"] = 70_000
            wall = sum(phases.values())
            metrics: dict[str, float | str] = {"loss": 1 / tick}
            if tick % 7 == 0:
                metrics |= {f"norm.layers.{layer}.rms": float(layer * tick) for layer in (0, 1)}
                metrics["norm.head.std"] = "nan" if tick % 2 else 1.0
            lines.append(
                line(
                    tick,
                    metrics,
                    wall_ns=wall,
                    phases={} if tick % 3 == 0 else phases,
                    arrival_ns=None if tick % 3 == 0 else forward * (rank + 1),
                )
            )
        write_tape(run, lines[:400], lines[400:], rank=rank)
    seal_run(run)
    return run


def arrays(found: Reduced) -> dict[str, Any]:
    return {column.name or column.kind: column.values for column in found.columns}


def expected(run: Path, sql: str) -> list[Any]:
    rows = (
        open_run(run).ticks().fetch(f"select {sql} from ticks where rank = 0 group by 1 order by 1")
    )
    return [row[1] for row in rows]


def test_phases_add_up_in_every_bucket(run: Path) -> None:
    found = RunSeries(run).phase_times(Stretch(width=200))
    known, size = arrays(found), found.meta["width"]
    assert size == 16
    assert known["x"].tolist() == list(range(0, TICKS + 1, size))
    total = expected(run, "tick // 16, avg(wall_ns) filter (unattributed_ns is not null)")
    phases = ["forward", "update", "evaluate", "unattributed"]
    assert np.allclose(sum(known[phase] for phase in phases), total)
    assert np.allclose(known["max"], expected(run, "tick // 16, max(wall_ns)"))
    near = RunSeries(run).phase_times(Stretch(100, 119, 200))
    assert near.meta["width"] == 1
    assert arrays(near)["forward"][2] != arrays(near)["forward"][2]  # 102: not measured
    assert arrays(near)["evaluate"][0] == 70_000


def test_every_tick_is_in_one_cell_of_the_tick_times(run: Path) -> None:
    found = RunSeries(run).tick_times(Stretch(width=400))
    known = arrays(found)
    bins = len(known["edges"]) - 1
    counts = known["count"].reshape(len(known["x"]), bins)
    assert counts.sum() == TICKS
    assert counts.sum(1).tolist() == expected(run, f"tick // {found.meta['width']}, count(*)")
    walls = open_run(run).ticks().fetch("select wall_ns from ticks where rank = 0")
    histogram, _ = np.histogram([wall for (wall,) in walls], known["edges"])
    assert counts.sum(0).tolist() == histogram.tolist()


def test_ranks_beside_each_other(run: Path) -> None:
    found = RunSeries(run).rank_times(Stretch(1, 400, 400), value="arrival")
    known = arrays(found)
    assert known["rank"].tolist() == [0, 1]
    values = known["value"].reshape(2, -1)
    mean = expected(run, "tick // 4, avg(arrival_ns)")
    assert np.allclose(values[0], mean[: len(values[0])])
    assert (values[1] > values[0]).mean() > 0.7
    with pytest.raises(ConfigError, match="wall or arrival"):
        RunSeries(run).rank_times(value="loss")


def test_layers(run: Path) -> None:
    series = RunSeries(run)
    assert series.norms().meta["stats"] == ["rms", "std"]
    found = series.norms("rms", Stretch(width=40))
    assert found.meta["layers"] == ["layers.0", "layers.1"]
    known, size = arrays(found), found.meta["width"]
    highest = expected(run, f'tick // {size}, max("norm.layers.1.rms")')
    assert known["value"][len(known["x"]) :].tolist() == highest
    found = series.norms("std", Stretch(1, 7, 400))
    assert all(map(math.isnan, arrays(found)["value"]))


def test_the_machine_over_time(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    second = 1_000_000_000
    write_tape(run, [line(1, time_ns=5 * second, wall_ns=second)])
    samples = [
        {"memory_bytes": 100.0 + at, "processor_ns": float(at) * second, "load": 1.0}
        for at in range(6)
    ]
    del samples[2]["processor_ns"]
    lines = [
        encode({"tick": 1, "time_ns": (5 + at) * second, "values": values})
        for at, values in enumerate(samples)
    ]
    write_tape(run, lines[:4], lines[4:], kind="resources")
    again = encode({"tick": 1, "time_ns": 20 * second, "values": {"processor_ns": 0.0}})
    write_tape(run, [again], kind="resources", attempt=1)
    series = RunSeries(run)
    for _ in range(2):
        assert series.resource_names() == ["memory_bytes", "processor_ns", "load"]
        found = series.resources(["memory_bytes", "processor_ns", "gone"], x="elapsed")
        memory, processor = found.meta["tracks"]
        assert (memory["rate"], processor["rate"]) == (False, True)
        xs, ys = (
            [column.values.tolist() for column in found.columns if column.kind == kind]
            for kind in ("x", "y")
        )
        assert xs == [[at * second for at in range(1, 7)], [at * second for at in (2, 4, 5, 6)]]
        assert ys == [[100, 101, 102, 103, 104, 105], [second] * 4]
        seal_run(run)
        series.refresh()
    assert series.resources(["load"], x="tick").meta["extent"] == (1, 2)
    with pytest.raises(ConfigError, match="axis must be one of"):
        series.resources(["load"], x="epoch")  # type: ignore[arg-type]
    assert series.nbytes > 0


def test_a_run_without_ticks(tmp_path: Path) -> None:
    series = RunSeries(new_run(tmp_path / "run"))
    assert series.reduce(["loss"]).meta["tracks"] == []
    assert series.reduce(["wall_ns"]).meta["extent"] == (0, 1)
    for found in (series.phase_times(), series.tick_times(), series.rank_times(), series.norms()):
        assert found.to_bytes()
    assert series.resources(["memory_bytes"]).meta["tracks"] == []


def test_samples_beside_ticks_that_were_left_behind_are_left_out(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for attempt, first in ((0, 1), (1, 5)):
        ticks = range(first, first + 8)
        write_tape(run, [line(tick, {"tokens": 10.0}) for tick in ticks], attempt=attempt)
        samples = [
            encode({"tick": tick, "time_ns": tick, "values": {"load": float(attempt)}})
            for tick in (first - 1, first + 2, first + 5)
        ]
        write_tape(run, samples, kind="resources", attempt=attempt)
    series = RunSeries(run)
    for axis, scale in (("tick", 1), ("tokens", 10)):
        found = series.resources(["load"], x=axis)  # type: ignore[arg-type]
        known = arrays(found)
        assert known["x"].tolist() == [scale * tick for tick in (3, 4, 7, 10)]
        assert known["y"].tolist() == [0, 1, 1, 1]
