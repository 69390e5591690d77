import os
import shutil
import struct
import sys
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.store import writer
from metronorm.store.run_directory import tape_folder
from metronorm.store.schema import RESERVED_METRICS
from metronorm.store.sealing import seal_run
from metronorm.store.spawn import is_running, spawn
from metronorm.store.tape import LIVE
from metronorm.store.writer import Channel

from ..clock import records
from .stores import bits, files, line, new_run, numbers, until, write_ring, write_tape

ODD = ["phases", "metrics", "lines", "values", "select", "key", "größe", "q\"u'o", "a.b/c d", "É"]

floats = st.floats() | st.sampled_from([-0.0, 5e-324, -2.2e-308, 1.7976931348623157e308])
names = st.sampled_from(ODD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
).filter(lambda name: name.lower() not in RESERVED_METRICS and not name.lower().endswith("_ns"))
metrics = st.dictionaries(names, floats, max_size=6)


pytestmark = pytest.mark.usefixtures("shared")


def test_a_long_stretch_is_sealed_while_the_loop_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STRETCH_BYTES", 20_000)
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('not what was meant')")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    with Clock(run, progress=False, stall=None) as clock:
        folder = tape_folder(run, "ticks", 0, 0)
        values = []

        def go(ticks: int) -> None:
            for _ in clock.ticks(range(ticks)):
                values.append(clock.tick / 3)
                clock.log(value=values[-1])

        for part in range(2):
            go(300)
            assert clock.flush()
            until(lambda number=part: (folder / f"part-0000{number}.parquet").exists())
            until(lambda: not list(folder.glob("_part-*")))
        go(5)
        assert clock.flush()
        assert (folder / LIVE).stat().st_size < 5000
        assert numbers(run) == list(range(1, 606))
        assert list(folder.glob("*.damaged")) == []
    assert files(folder) == [f"part-0000{number}.parquet" for number in range(3)]
    assert [row["value"] for row in open_run(run).ticks().rows()] == values


def test_when_a_stretch_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "STRETCH_BYTES", 1000)
    monkeypatch.setattr(writer, "_SMALLEST_STRETCH_BYTES", 100)
    channel = Channel(tmp_path, None, 100)
    for size, young, old in ((99, False, False), (100, False, True), (1000, True, True)):
        channel.tape.append(b"x" * (size - channel.tape.size - 1), b"\n")
        assert channel.is_stretch_long() is young
        with monkeypatch.context() as patch:
            patch.setattr(
                channel, "stretch_started", channel.stretch_started - writer.STRETCH_SECONDS
            )
            assert channel.is_stretch_long() is old
    channel.finish_stretch()
    assert channel.has_stretch_to_seal
    assert not channel.is_stretch_long()
    channel.close()


def test_closing_seals(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(3)))
    for kind in ("ticks", "events", "resources"):
        folder = tape_folder(tmp_path / "run", kind, 0, 0)
        assert files(folder) == ["part-00000.parquet"]
    assert seal_run(tmp_path / "run") == 0


def test_a_separate_process_seals_many_lines(tmp_path: Path) -> None:
    """Closing does not wait for it, and each tick can be read meanwhile."""
    run = tmp_path / "run"
    names = [f"metric {number}" for number in range(1000)]
    with Clock(run, progress=False, stall=None) as clock:
        for tick in clock.ticks(range(100)):
            clock.log(**dict.fromkeys(names, tick / 3))
    assert numbers(run) == list(range(1, 101))
    folders = [tape_folder(run, kind, 0, 0) for kind in ("ticks", "events", "resources")]
    until(lambda: all(files(folder) == ["part-00000.parquet"] for folder in folders))
    rows = open_run(run).ticks().rows()
    assert [row["metric 999"] for row in rows] == [tick / 3 for tick in range(100)]
    assert open_run(run).notices() == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc of Linux")
def test_processes_that_have_ended_are_waited_for(tmp_path: Path) -> None:
    begun = [Path("/proc", str(spawn(sys.executable, "-c", ""))) for _ in range(3)]
    until(lambda: all((each / "stat").read_text().split()[2] == "Z" for each in begun))
    last = spawn(sys.executable, "-c", "")
    assert not any(each.exists() for each in begun)
    until(lambda: not is_running(last))


@settings(max_examples=13, deadline=None)
@given(st.lists(st.lists(metrics, max_size=4), min_size=1, max_size=3))
def test_sealed_values_are_the_recorded_ones(
    tmp_path_factory: pytest.TempPathFactory, stretches: list[list[dict[str, float]]]
) -> None:
    run = new_run(tmp_path_factory.mktemp("seal") / "run")
    expected: list[dict[str, float]] = []
    spelled: dict[str, str] = {}  # the clock refuses names that differ only in case
    lines: list[list[bytes]] = []
    for stretch in stretches:
        lines.append([])
        for values in stretch:
            kept = {n: v for n, v in values.items() if spelled.setdefault(n.lower(), n) == n}
            expected.append(kept)
            as_json = {n: v if abs(v) < float("inf") else str(v) for n, v in kept.items()}
            lines[-1].append(line(len(expected), as_json))
    write_tape(run, *lines)
    for sealed in (False, True):
        if sealed:
            seal_run(run)
            assert list(run.rglob("_*")) == []
        ticks = open_run(run).ticks()
        rows = ticks.rows()
        assert set(ticks.metrics) == {name for values in expected for name in values}
        assert [row["tick"] for row in rows] == list(range(1, len(expected) + 1))
        for row, values in zip(rows, expected, strict=True):
            assert row["forward_ns"] == 2
            found = bits(row[name] for name in ticks.metrics)
            assert found == bits(values.get(name) for name in ticks.metrics)


@pytest.mark.slow
def test_very_many_names(tmp_path: Path) -> None:
    values = {f"layer.{number}.größe": number / 7 for number in range(10_000)}
    run = new_run(tmp_path / "run")
    write_tape(run, [line(1), line(2, {**values}), line(3)])
    assert seal_run(run) == 1
    ticks = open_run(run).ticks()
    assert ticks.metrics == ["loss", *values]
    query = 'select "layer.0.größe", "layer.9999.größe" from ticks order by tick'
    assert ticks.sql(query).fetchall() == [(None, None), (0.0, 9999 / 7), (None, None)]


def test_live_lines_are_left_to_their_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Clock(run, progress=False, stall=None) as clock:
        list(clock.ticks(range(3)))
        assert clock.flush()
        assert seal_run(run) == 0
        folder = tape_folder(run, "ticks", 0, 0)
        assert files(folder) == [LIVE]
        assert numbers(run) == [1, 2, 3]
        list(clock.ticks(range(3)))
    assert numbers(run) == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_takes_over_the_lines_in_the_ring(tmp_path: Path, shared: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1), line(2)])
    write_ring(run, folder, line(2), line(3))
    with Clock(run, resume=True, progress=False) as clock:
        list(clock.ticks(range(1), initial=3))
    assert not list(shared.glob("*-ticks-0-0"))
    assert (folder / LIVE).read_bytes() == line(1) + line(2) + line(3)
    assert numbers(run) == [1, 2, 3, 4]


def test_a_copy_of_a_run_has_the_lines_on_its_tape(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1)])
    write_ring(run, folder, line(2))
    shutil.copytree(run, tmp_path / "copy")
    assert seal_run(tmp_path / "copy") == 1
    assert numbers(tmp_path / "copy") == [1]
    assert numbers(run) == [1, 2]
    assert seal_run(run) == 1
    assert numbers(run) == [1, 2]


def test_parts_are_sorted_and_have_types(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(3), line(1), line(2, {"loss": "nan", "count": 3})])
    seal_run(run)
    found = duckdb.sql(f"from read_parquet('{folder}/*.parquet', hive_partitioning = false)")
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
        **dict.fromkeys(["tick", "time_ns", "wall_ns", "beats", "clock_ns"], "BIGINT"),
        **dict.fromkeys(["forward_ns", "unattributed_ns"], "BIGINT"),
        **dict.fromkeys(["loss", "count"], "DOUBLE"),
    }
    assert [row[0] for row in found.fetchall()] == [1, 2, 3]


def test_events_survive_sealing(tmp_path: Path) -> None:
    values = {"text": 'ü "q" \\ \n', "list": [1, 2.5, None, {"a": [True]}], "big": 2**60 + 1}
    with Clock(tmp_path / "run", progress=False) as clock:
        clock.event('odd "name"', **values)
        assert clock.flush()
        live = records.events(tmp_path / "run")
    sealed = records.events(tmp_path / "run")
    assert sealed[: len(live)] == live
    assert next(one["fields"] for one in live if one["event"] == 'odd "name"') == values


def test_spawn(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import os, sys; open({str(out)!r}, 'w').write(repr((sys.argv, os.environ['A'])))"
    os.environ["A"] = "ü=1"
    try:
        process = spawn(sys.executable, "-c", code, "x y", "")
    finally:
        del os.environ["A"]
    until(lambda: not is_running(process))
    assert out.read_text() == repr((["-c", "x y", ""], "ü=1"))
    assert not is_running(process)
    with pytest.raises(FileNotFoundError):
        spawn(str(tmp_path / "nothing"))


def test_numbers_that_are_the_same_to_the_bit() -> None:
    """The comparison that these tests use."""
    assert bits([-0.0, float("nan"), None]) == bits([-0.0, -float("nan"), None])
    assert bits([-0.0]) != bits([0.0])
    assert bits([5e-324]) == [struct.pack("d", 5e-324)]
