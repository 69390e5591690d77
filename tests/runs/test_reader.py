import importlib.util
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.clock import Clock
from metronorm.errors import MissingDependencyError, RunError
from metronorm.runs import open_run
from metronorm.runs.following import Follower
from metronorm.store import unsealed_lines as lines
from metronorm.store.sealing import seal_parts, seal_run
from metronorm.store.tape import Tape, encode

from ..store.stores import line, new_run, numbers, write_tape

KILLED = """
import os, signal, sys
from metronorm.clock import Clock

clock = Clock(sys.argv[1], progress=False).open()
for _ in clock.ticks(range(1000)):
    pass
clock.event("last words")
os.kill(os.getpid(), signal.SIGKILL)
"""


def record(run: Path, first: int, last: int, *, resume: bool = False, loss: float = 1.0) -> None:
    """Record an attempt with the ticks from `first` to `last`."""
    with Clock(run, resume=resume, progress=False) as clock:
        for _ in clock.ticks(range(last - first + 1), initial=first - 1):
            with clock.phase("forward"):
                clock.log(loss=loss)


def history(run: Path, which: str) -> list[tuple[int, int]]:
    return [(row["attempt"], row["tick"]) for row in open_run(run).ticks(which).rows()]  # type: ignore[arg-type]


def test_columns_and_types_of_tables(tmp_path: Path) -> None:
    record(tmp_path / "run", 1, 5)
    ticks = open_run(tmp_path / "run").ticks()
    assert ticks.columns == [
        "attempt", "rank", "tick", "time_ns", "wall_ns", "beats",
        "clock_ns", "gc_ns", "data_ns", "forward_ns", "unattributed_ns", "loss",
    ]  # fmt: skip
    assert ticks.phases == ["data", "forward", "unattributed"]
    assert ticks.metrics == ["loss"]
    assert ticks.df()["tick"].tolist() == [1, 2, 3, 4, 5]
    assert ticks.arrow().column("loss").to_pylist() == [1.0] * 5
    assert ticks.sql("select sum(tick), max(loss) from ticks").fetchall() == [(15, 1.0)]
    assert ticks.rows()[0]["attempt"] == 0
    assert "tick" in repr(ticks)


def test_tables_that_need_a_package_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "run", 1, 1)
    ticks = open_run(tmp_path / "run").ticks()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"pandas; try: pip install 'metronorm\[analysis"
    ):
        ticks.df()
    with pytest.raises(MissingDependencyError, match="pyarrow"):
        ticks.arrow()
    assert ticks.rows()


def test_after_a_resume_each_tick_stands_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run, 1, 6)
    record(run, 4, 5, resume=True)
    # ticks of attempt 0 after the point of resumption are no part of the run any more
    assert history(run, "effective") == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]
    record(run, 6, 7, resume=True)
    expected = [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (2, 6), (2, 7)]
    assert history(run, "effective") == expected
    assert sorted(history(run, "full")) == sorted(
        [(0, tick) for tick in range(1, 7)] + [(1, 4), (1, 5), (2, 6), (2, 7)]
    )
    assert open_run(run).attempts == [0, 1, 2]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=5))
def test_effective_history_is_what_replaying_would_give(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int]]
) -> None:
    run = new_run(tmp_path_factory.mktemp("reader") / "run")
    lived: dict[int, int] = {}
    for attempt, (first, count) in enumerate(attempts):
        write_tape(run, [line(tick) for tick in range(first, first + count)], attempt=attempt)
        if count:
            lived = {tick: by for tick, by in lived.items() if tick < first}
            lived |= dict.fromkeys(range(first, first + count), attempt)
    assert history(run, "effective") == [(lived[tick], tick) for tick in sorted(lived)]


def test_ranks_are_separate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    record(run, 1, 2)
    monkeypatch.setenv("RANK", "1")
    record(run, 1, 3, resume=True)
    rows = open_run(run).ticks("full").rows()
    assert [(row["rank"], row["tick"]) for row in rows if row["rank"]] == [(1, 1), (1, 2), (1, 3)]


def test_a_torn_last_line_is_left_out_and_reported(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [*map(line, range(1, 5)), line(5)[:-20]])
    assert history(run, "full") == [(0, tick) for tick in range(1, 5)]
    assert open_run(run).notices() == [f"{folder}: the last line is torn and was left out"]


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    damaged = [b"\x00\xff garbage {\n", line(4)[:30] + b"\n"]
    folder = write_tape(run, [line(1), damaged[0], line(3), damaged[1], line(5)])
    assert history(run, "full") == [(0, 1), (0, 3), (0, 5)]
    assert open_run(run).notices() == [f"{folder}: 2 damaged lines were left out"]


@pytest.mark.parametrize("sealed", [False, True])
def test_lines_in_the_ring_of_a_killed_process_are_read(tmp_path: Path, sealed: bool) -> None:
    run = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run)], check=False)
    assert killed.returncode == -signal.SIGKILL
    if sealed:
        seal_run(run)
    assert history(run, "full") == [(0, tick) for tick in range(1, 1001)]
    names = [row["event"] for row in open_run(run).events().rows()]
    assert (names[0], names[-1]) == ("start", "last words")
    assert open_run(run).notices() == []
    seal_run(run)


def test_a_run_without_ticks_and_names_that_need_quoting(tmp_path: Path) -> None:
    run = tmp_path / "it's [odd] *"
    record(run, 1, 0)
    assert open_run(run).ticks().rows() == []
    assert open_run(run).ticks().columns[:3] == ["attempt", "rank", "tick"]
    with Clock(run, resume=True, progress=False) as clock:
        for _ in clock.ticks(range(1)):
            with clock.phase('it\'s "quoted"'):
                clock.log(**{"größe 'x' \"y\"": 1.5})
    row = open_run(run).ticks().rows()[0]
    assert row["größe 'x' \"y\""] == 1.5
    assert 'it\'s "quoted"_ns' in row


def test_a_live_run_can_be_followed(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        run = open_run(tmp_path / "run")
        counts = []
        for _ in clock.ticks(range(3)):
            counts.append(len(run.ticks().rows()))  # noqa: PERF401
    assert counts == [0, 1, 2]


def test_events_and_resources(tmp_path: Path) -> None:
    record(tmp_path / "run", 1, 3)
    run = open_run(tmp_path / "run")
    assert [row["event"] for row in run.events().rows() if row["event"] != "gc"] == ["start", "end"]
    samples = run.resources().rows()
    assert len(samples) >= 1
    assert all(row["peak_memory_bytes"] > 2**20 for row in samples)
    assert not math.isnan(samples[0]["processor_ns"])


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="which has none"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 99}')
    with pytest.raises(RunError, match=r"schema 99.*upgrade"):
        open_run(tmp_path)
    for damaged in ("{", "[]", '{"schema": 1}', "\x00"):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(RunError, match="damaged"):
            open_run(tmp_path)


def sample(time_ns: int, **values: float) -> bytes:
    return encode({"tick": 0, "time_ns": time_ns, "values": values})


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_each_tick_has_the_newest_sample_of_its_process(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = new_run(tmp_path_factory.mktemp("reader") / "run")
    moments = st.lists(st.integers(0, 50), max_size=6, unique=True).map(sorted)
    expected: dict[tuple[int, int, int], int | None] = {}
    for attempt, rank in ((0, 0), (0, 1), (1, 0)):
        sampled, ended = data.draw(moments), data.draw(moments)
        place: dict[str, Any] = {"attempt": attempt, "rank": rank}
        first = 3 * attempt + 1
        write_tape(
            run, [sample(moment, a_bytes=moment) for moment in sampled], kind="resources", **place
        )
        write_tape(
            run, [line(first + n, time_ns=moment) for n, moment in enumerate(ended)], **place
        )
        for n, moment in enumerate(ended):
            known = [other for other in sampled if other <= moment]
            expected[attempt, rank, first + n] = known[-1] if known else None
    rows = open_run(run).ticks_with_resources("full").rows()
    found = {(row["attempt"], row["rank"], row["tick"]): row.get("a_bytes") for row in rows}
    assert found == expected
    assert len(rows) == len(expected)


def test_resources_beside_a_metric_of_the_same_name(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [sample(1, memory_bytes=5, other=1.5)], kind="resources")
    write_tape(run, [line(1, {"memory_bytes": 7})])
    table = open_run(run).ticks_with_resources()
    assert table.columns[-2:] == ["memory_bytes", "other"]
    assert [(row["memory_bytes"], row["other"]) for row in table.rows()] == [(7, 1.5)]


def test_a_run_in_folders_that_look_like_partitions(tmp_path: Path) -> None:
    run = new_run(tmp_path / "lr=0.1" / "rank=8" / "attempt=x")
    write_tape(run, [line(1)], [line(2)], attempt=3, rank=1)
    for _ in range(2):
        rows = open_run(run).ticks("full").rows()
        assert [(row["attempt"], row["rank"], row["tick"]) for row in rows] == [
            (3, 1, 1),
            (3, 1, 2),
        ]
        assert open_run(run).ticks().columns.count("rank") == 1
        assert "lr" not in open_run(run).ticks().columns
        seal_run(run)


@pytest.mark.parametrize(
    "name", ["layers=[64]", "[64]", "run*", "ru?", "a[!b", "[[]", "**", "a[]", "{a,b}[1]", r"a\b"]
)
def test_characters_of_patterns_in_a_path_are_literal(tmp_path: Path, name: str) -> None:
    for of, value in ((name, 64.0), ("layers=6", 6.0), ("6", 6.0), ("run", 6.0), ("ab", 6.0)):
        run = new_run(tmp_path / of / "run")
        write_tape(run, [line(1, {"loss": value})], [line(2, {"loss": value})])
        assert seal_run(run) == 2
        write_tape(run, [line(3, {"loss": value})], attempt=1)
    run = open_run(tmp_path / name / "run", verify=True)
    assert run.ticks().df()["loss"].tolist() == [64.0] * 3
    assert run.notices() == []
    assert Follower(run.directory).read().curves["loss"].mean == [64.0] * 3


def test_a_damaged_part_beside_a_pattern_leaves_the_whole_one_alone(tmp_path: Path) -> None:
    for name in ("run1", "run[1]"):
        write_tape(new_run(tmp_path / name), [line(1)])
        assert seal_run(tmp_path / name) == 1
    (part,) = (tmp_path / "run1").rglob("*.parquet")
    part.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert seal_run(tmp_path / "run[1]") == 0
    assert numbers(tmp_path / "run[1]") == [1]


@pytest.mark.parametrize(
    "change",
    [
        "if(tick = 5, null, tick) as tick",
        "null::bigint as time_ns",
        "'two' as tick",
        "tick::double as tick",
        "[tick] as tick",
        "'low' as loss",
    ],
)
def test_a_part_that_is_no_record_of_a_clock_is_damaged_and_hides_no_other(
    tmp_path: Path, change: str
) -> None:
    run = new_run(tmp_path / "run")
    for first in (1, 4):
        write_tape(run, [line(tick, {"loss": 1.0}) for tick in range(first, first + 3)])
        seal_run(run)
    _, bad = sorted(run.rglob("*.parquet"))
    replaced = bad.with_name("new")
    duckdb.sql(
        f"""copy (select * replace ({change})
            from read_parquet('{bad}', hive_partitioning = false))
            to '{replaced}' (format parquet)"""
    )
    replaced.rename(bad)
    assert numbers(run) == [1, 2, 3]
    assert open_run(run).notices() == [f"{bad}: a damaged part was left out"]
    assert open_run(run).ticks().sql("select sum(loss) from ticks").fetchall() == [(3.0,)]


def test_a_path_that_duckdb_has_no_pattern_for_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path / r"a\b[1]")
    write_tape(run, [line(1)])
    with pytest.raises(RunError, match="cannot have a backslash"):
        seal_run(run)
    assert numbers(run) == [1], "lines have a form"


def test_a_run_that_is_read_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "run", 1, 3)
    monkeypatch.chdir(tmp_path)
    assert numbers(Path("run")) == [1, 2, 3]
    monkeypatch.chdir(tmp_path / "run")
    assert numbers(Path()) == [1, 2, 3]


def test_names_that_differ_in_case_between_attempts(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(
        run,
        [line(1, {"Loss": 1.0}, phases={"Forward": 1, "unattributed": 2})],
        [line(2, {"loss": 2.0}, phases={"forward": 2, "unattributed": 1})],
    )
    seal_run(run)
    write_tape(run, [line(3, {"LOSS": 3.0}, phases={"FORWARD": 3})], attempt=1)
    write_tape(run, [line(3, {"LOSS": 3.0, "loss": 4.0})], attempt=1, rank=1)
    for _ in range(2):
        table = open_run(run).ticks("full")
        assert len(table.metrics) == 1
        assert len(table.phases) == 2
        rows = table.sql("select loss, forward_ns from ticks order by tick, rank").fetchall()
        assert rows == [(1, 1), (2, 2), (3, 3), (3, 2)]
        seal_run(run)


def test_a_metric_whose_type_changes(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    stretches = [[line(1, {"a": 1}), line(2, {"a": 2.5})], [line(3, {"a": "nan"})]]
    write_tape(run, *stretches, [line(4, {"a": 4}), line(5, {})])
    for _ in range(2):
        table = open_run(run).ticks()
        assert str(table.relation.types[table.columns.index("a")]) == "DOUBLE"
        values = [row["a"] for row in table.rows()]
        assert values[:2] + values[3:] == [1, 2.5, 4, None]
        assert math.isnan(values[2])
        seal_run(run)


def test_phases_come_and_go(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(
        run,
        [line(1, phases={"a": 1, "unattributed": 2}), line(2, phases={})],
        [line(3, phases={"b": 3, "unattributed": 0})],
    )
    seal_run(run)
    write_tape(run, [line(4, phases={"c": 2, "a": 1, "unattributed": 0}, arrival_ns=2)])
    for _ in range(2):
        table = open_run(run).ticks()
        assert sorted(table.phases) == ["a", "b", "c", "unattributed"]
        assert table.columns[-2:] == ["unattributed_ns", "loss"]
        spent = [(row["a_ns"], row["b_ns"], row["c_ns"]) for row in table.rows()]
        assert spent == [(1, None, None), (None, None, None), (None, 3, None), (1, None, 2)]
        assert [row["arrival_ns"] for row in table.rows()] == [None, None, None, 2]
        assert [row["unattributed_ns"] for row in table.rows()] == [2, None, 0, 0]
        seal_run(run)


def test_events_that_are_sealed_and_those_that_are_not(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    fields = [{"a": 1}, {}, {"text": "ü\n"}]
    lines = [encode({"event": "x", "tick": n, "time_ns": n, "fields": fields[n]}) for n in range(3)]
    write_tape(run, lines[:2], kind="events")
    seal_run(run)
    write_tape(run, lines[2:], kind="events", rank=1)
    table = open_run(run).events()
    assert [json.loads(row["fields"]) for row in table.rows()] == fields
    assert table.sql("select fields->>'text' from events where rank = 1").fetchall() == [("ü\n",)]


@pytest.mark.parametrize("then", ["rotate", "seal", "seal more"])
@pytest.mark.parametrize("when", ["unsealed_files", "read_ring", "sealed_parts", "next_part"])
def test_reading_while_stretches_are_finished_and_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, then: str
) -> None:
    """It happens right after one of the times at which the reader lists the folder."""
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1)], [line(2)])
    tape = Tape(folder)
    look = getattr(lines, when)

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(lines, when, look)
        found = look(*given)
        tape.append(line(3))
        tape.rotate()
        if then != "rotate":
            seal_parts(folder, "ticks")
        if then == "seal more":
            tape.append(line(4))
            tape.rotate()
        return found

    monkeypatch.setattr(lines, when, meanwhile)
    read = open_run(run)
    assert numbers(read) == [1, 2, 3, *([4] if then == "seal more" else [])]
    assert read.notices() == []
    tape.close()
