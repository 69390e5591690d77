import importlib.util
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.clock import Clock, open_run
from metronorm.errors import MissingDependencyError, RunError


def record(run: Path, first: int, last: int, *, resume: bool = False, loss: float = 1.0) -> None:
    """An attempt that does the ticks from `first` to `last`."""
    with Clock(run, resume=resume, progress=False) as clock:
        for _ in clock.ticks(range(last - first + 1), initial=first - 1):
            with clock.phase("forward"):
                clock.log(loss=loss)


def history(run: Path, which: str) -> list[tuple[int, int]]:
    return [(row["attempt"], row["tick"]) for row in open_run(run).ticks(which).rows()]  # type: ignore[arg-type]


def test_columns_and_forms(tmp_path: Path) -> None:
    record(tmp_path / "run", 1, 5)
    ticks = open_run(tmp_path / "run").ticks()
    assert ticks.columns == [
        "attempt", "rank", "tick", "time_ns", "wall_ns", "beats",
        "data_ns", "forward_ns", "unattributed_ns", "loss",
    ]  # fmt: skip
    assert ticks.df()["tick"].tolist() == [1, 2, 3, 4, 5]
    assert ticks.arrow().column("loss").to_pylist() == [1.0] * 5
    assert ticks.sql("select sum(tick), max(loss) from ticks").fetchall() == [(15, 1.0)]
    assert ticks.rows()[0]["attempt"] == 0
    assert "tick" in repr(ticks)


def test_forms_that_need_a_package_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    # what attempt 0 did after the point of resumption is not part of the run any more
    assert history(run, "effective") == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]
    record(run, 6, 7, resume=True)
    expected = [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (2, 6), (2, 7)]
    assert history(run, "effective") == expected
    assert sorted(history(run, "full")) == sorted(
        [(0, tick) for tick in range(1, 7)] + [(1, 4), (1, 5), (2, 6), (2, 7)]
    )
    assert open_run(run).attempts == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=5))
def test_effective_history_is_what_replaying_would_give(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int]]
) -> None:
    run = tmp_path_factory.mktemp("reader") / "run"
    lived: dict[int, int] = {}
    for attempt, (first, count) in enumerate(attempts):
        record(run, first, first + count - 1, resume=attempt > 0)
        if count:
            lived = {tick: by for tick, by in lived.items() if tick < first}
            lived |= dict.fromkeys(range(first, first + count), attempt)
    assert history(run, "effective") == [(lived[tick], tick) for tick in sorted(lived)]


def test_ranks_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    record(run, 1, 2)
    monkeypatch.setenv("RANK", "1")
    record(run, 1, 3, resume=True)
    rows = open_run(run).ticks("full").rows()
    assert [(row["rank"], row["tick"]) for row in rows if row["rank"]] == [(1, 1), (1, 2), (1, 3)]


def test_a_torn_last_line_is_left_out_and_told_of(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run, 1, 5)
    tape = run / "ticks/attempt=0/rank=0/live.jsonl"
    tape.write_bytes(tape.read_bytes()[:-20])
    assert history(run, "full") == [(0, tick) for tick in range(1, 5)]
    assert open_run(run).notices() == [f"{tape}: the last line is torn and was left out"]


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run, 1, 5)
    tape = run / "ticks/attempt=0/rank=0/live.jsonl"
    lines = tape.read_bytes().splitlines(keepends=True)
    lines[1] = b"\x00\xff garbage {\n"
    lines[3] = lines[3][:30] + b"\n"
    tape.write_bytes(b"".join(lines))
    assert history(run, "full") == [(0, 1), (0, 3), (0, 5)]
    assert open_run(run).notices() == [f"{run / 'ticks'}: 2 damaged lines were left out"]


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
    assert [row["event"] for row in run.events().rows()] == ["start", "end"]
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
