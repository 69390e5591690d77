import math
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.errors import ConfigError
from metronorm.runs import Table
from metronorm.runs.comparing import Comparison, Measure, compare
from metronorm.runs.comparing.times import BINS, measure, read_times
from metronorm.runs.table import Source
from metronorm.store.sql_columns import identifier

from ..clock.noisy import TICK_NS, record, record_ranks, walls
from ..store.tapes import write_resources


def table_of(rows: duckdb.DuckDBPyRelation, name: str) -> Table:
    """A table with these rows, without a run."""
    connection = duckdb.connect()
    connection.execute(
        "create table rows as from (select unnest($1, recursive := true))",
        [[dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]],
    )
    sources = [Source({column: identifier(column) for column in rows.columns}, "rows")]
    return Table(connection, sources, rows.columns, name=name, order="tick, attempt, rank")


def ticks_table(times: list[int]) -> Table:
    """The ticks of a run with these tick times."""
    query = f"""select 0 as attempt, 0 as rank, unnest(range(1, {len(times) + 1})) as tick,
                       unnest({times}) as wall_ns"""
    return table_of(duckdb.sql(query), "ticks")


def planted(table: Table, name: str, query: str) -> Callable[[], Table]:
    """A method of `Run` that returns these rows of a table."""
    return lambda: table_of(table.sql(query), name)


def in_thirds(tick: int, time: int) -> dict[str, int]:
    return {"forward": time // 3, "backward": time // 3}


def test_a_planted_slowdown_is_found(tmp_path: Path) -> None:
    a = record(tmp_path / "a", walls(1))
    b = record(tmp_path / "b", walls(2, slower=0.1))
    found = compare(a, b)
    for name in ("tick_median_ns", "tick_mean_ns"):
        time = found.measures[name]
        assert time.a == pytest.approx(TICK_NS, rel=0.03)
        assert time.ratio == time.b / time.a
        assert time.low is not None
        assert time.high is not None
        assert 1.05 < time.low < 1.1 < time.high < 1.15
    assert "% slower (" in found.statements[0]
    assert "% faster (" in compare(b, a).statements[0]
    assert (found.a.ticks, found.b.ticks, found.skip) == (280, 280, 20)
    assert found.metric is None
    assert found.losses == found.reached == []
    assert compare(a, b) == found, "the same every time"


def test_equal_runs_do_not_differ_and_intervals_contain_the_truth() -> None:
    differ = covered = 0
    for seed in range(20):
        a, same, slower = (
            read_times(ticks_table(walls(3 * seed + at, 250, slower=slow, spread=0.1)), 0)
            for at, slow in enumerate((0.0, 0.0, 0.1))
        )
        differ += measure(a.median, same.median).differs
        time = measure(a.median, slower.median)
        assert time.low is not None
        assert time.high is not None
        covered += time.low <= 1.1 <= time.high
    assert differ <= 2
    assert covered >= 17


def test_a_long_run_is_read_in_stretches() -> None:
    times = walls(1, 4 * BINS + 7)
    found = read_times(ticks_table(times), 0)
    assert found.ticks == len(times)
    assert found.median.value == pytest.approx(sorted(times)[len(times) // 2], rel=1e-3)
    assert found.sums.quotient("wall").value == pytest.approx(sum(times) / len(times))
    other = read_times(ticks_table(walls(2, 4 * BINS, slower=0.02)), 0)
    time = measure(found.median, other.median)
    assert time.low is not None
    assert time.high is not None
    assert 1.01 < time.low < 1.02 < time.high < 1.03


def test_rare_slow_ticks_are_seen_in_the_mean(tmp_path: Path) -> None:
    a = record(tmp_path / "a", walls(1))
    often = walls(2)
    for at in (30, 57, 101, 122, 170, 199, 230, 241, 268, 290):
        often[at] *= 15
    found = compare(a, record(tmp_path / "b", often))
    assert not found.measures["tick_median_ns"].differs
    assert found.measures["tick_mean_ns"].differs
    assert found.measures["tick_mean_ns"].ratio == pytest.approx(1.5, abs=0.1)
    assert "no difference beyond the noise" in found.statements[0]
    assert found.statements[1].startswith("by the mean, which includes rare slow ticks, B is")


def test_regular_slow_ticks_do_not_blur_the_mean(tmp_path: Path) -> None:
    def evaluated(seed: int) -> list[int]:
        return [time * (1 + 9 * (at % 50 == 49)) for at, time in enumerate(walls(seed))]

    a, b = record(tmp_path / "a", evaluated(1)), record(tmp_path / "b", evaluated(2))
    time = compare(a, b).measures["tick_mean_ns"]
    assert time.low is not None
    assert time.high is not None
    assert 0.9 < time.low < time.high < 1.1


def test_the_phase_that_is_slower_is_named(tmp_path: Path) -> None:
    def slower(tick: int, time: int) -> dict[str, int]:
        return {"forward": time // 3 + TICK_NS // 5, "backward": time // 3}

    a = record(tmp_path / "a", walls(1), phases=in_thirds)
    longer = [time + TICK_NS // 5 for time in walls(2)]
    b = record(
        tmp_path / "b",
        longer,
        phases=lambda tick, time: slower(tick, time - TICK_NS // 5) | {"communicate": 7},
    )
    found = compare(a, b).phases
    assert list(found) == ["forward", "backward", "communicate", "unattributed"]
    assert found["forward"].ratio == pytest.approx(1.6, abs=0.02)
    assert found["forward"].differs
    assert not found["backward"].differs
    assert found["communicate"].a == 0
    assert found["communicate"].ratio == math.inf
    assert found["communicate"].low == math.inf
    assert any("the phase forward changed most" in words for words in compare(a, b).statements)
    for run in (a, b):
        mean = compare(run, run).measures["tick_mean_ns"].a
        phases = compare(run, run).phases.values()
        assert sum(phase.a for phase in phases) == pytest.approx(mean), "phases add up to the tick"


def test_ticks_whose_phases_were_not_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = record(tmp_path / "a", walls(1), phases=in_thirds)
    whole = compare(a, a)
    table, columns = a.ticks(), ("forward_ns", "backward_ns", "unattributed_ns")
    nulls = ", ".join(f"if(tick % 3 = 0, {name}, null) as {name}" for name in columns)
    monkeypatch.setattr(
        a, "ticks", planted(table, "ticks", f"select * replace ({nulls}) from ticks")
    )
    sampled = compare(a, a)
    assert sampled.measures["tick_mean_ns"] == whole.measures["tick_mean_ns"]
    assert sampled.phases["forward"].a == pytest.approx(whole.phases["forward"].a, rel=0.01)
    for query in (
        f"select * replace ({nulls.replace('tick % 3', '-tick')}) from ticks",
        f"select * exclude ({', '.join(columns)}) from ticks",
    ):
        monkeypatch.setattr(a, "ticks", planted(table, "ticks", query))
        assert compare(a, a).phases == {}


def test_tokens_per_second(tmp_path: Path) -> None:
    a = record(tmp_path / "a", walls(1), metrics=lambda tick: {"tokens": 1_000})
    b = record(
        tmp_path / "b",
        walls(2, slower=0.5),
        metrics=lambda tick: {"tokens": 2_000 if tick % 3 else math.nan},
    )
    rate = compare(a, b).measures["tokens_per_second"]
    assert rate.a == pytest.approx(1_000 / TICK_NS * 1e9, rel=0.02)
    assert rate.b == pytest.approx(2_000 * 2 / 3 / TICK_NS / 1.5 * 1e9, rel=0.02)
    assert rate.differs
    assert any("1.33 times as many tokens" in note for note in compare(a, b).notes)
    assert "tokens_per_second" not in compare(a, record(tmp_path / "c", walls(3))).measures


def test_memory_and_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = record(tmp_path / "a", walls(1)), record(tmp_path / "b", walls(2))
    samples = "from (select unnest(range(0, 300, 10)) as tick, tick as time_ns, 0 as attempt)"
    rows = {
        a: f"""select *, 0 as rank, 100 + tick as peak_memory_bytes, 4000 * tick as processor_ns,
                      if(tick = 30, 900, 500) as gpu0_memory_bytes, 700 as gpu1_memory_bytes
               {samples}""",
        # two ranks; the children of each are replaced at tick 150 and count from 0 again
        b: f"""select *, unnest([0, 1]) as rank, 100 + 3 * tick as peak_memory_bytes,
                      if(tick = 0, 9000000, 3000 * tick) as processor_ns,
                      if(tick < 150, 1000 * tick, 0) as children_processor_ns {samples}""",
    }
    for run, query in rows.items():
        table = table_of(duckdb.sql(query), "resources")
        monkeypatch.setattr(run, "resources", lambda table=table: table)
    measures = compare(a, b).measures
    assert measures["peak_memory_bytes"] == Measure(390, 970, 970 / 390)
    assert measures["tick_processor_ns"].a == 4000
    # ticks 20 to 290: the children worked in those to 140
    assert measures["tick_processor_ns"].b == pytest.approx(2 * (3000 + 1000 * 120 / 270))
    assert "gpu_memory_bytes" not in measures, "B has none"
    assert compare(a, a).measures["gpu_memory_bytes"].a == 900


def test_a_note_about_a_machine_that_other_programs_used(tmp_path: Path) -> None:
    """The run uses 2 of 8 CPUs. In B, 90% of the machine are busy, so other programs use 5.2."""
    runs = {name: record(tmp_path / name, walls(at)) for at, name in enumerate("abc")}
    for run, busy in zip(runs.values(), (0.27, 0.9, None), strict=True):
        shutil.rmtree(run.directory / "resources")
        run.info.host["cores"] = 8
        values = {} if busy is None else {"machine_processor_share": busy}
        samples = [{"processor_ns": 2e9 * second, **values} for second in range(60)]
        write_resources(run.directory, samples)
    a, b, c = runs.values()
    notes = compare(a, b).notes
    assert notes[0].startswith("other programs used 2% of A's machine, 65% of B's machine: ")
    assert compare(a, a).notes == []
    assert compare(c, a).notes == []
    assert "an unknown part of A's machine, 65% of B's machine" in compare(c, b).notes[0]


def test_a_tick_takes_as_long_as_its_slowest_rank(tmp_path: Path) -> None:
    one = walls(1)
    late = [time * (1 + tick % 2) for tick, time in enumerate(one)]
    early = [time * (2 - tick % 2) for tick, time in enumerate(one)]
    a = record_ranks(tmp_path / "a", [one], tokens=100)
    b = record_ranks(tmp_path / "b", [late, early], tokens=100)
    found = compare(a, b)
    assert (found.a.ranks, found.b.ranks) == (1, 2)
    assert found.measures["tick_mean_ns"].ratio == pytest.approx(2)
    assert found.phases["unattributed"].ratio == pytest.approx(1.5), "the mean of the ranks"
    assert found.measures["tokens_per_second"].ratio == pytest.approx(1), "of all ranks"
    assert "different numbers of ranks: 1 in A, 2 in B" in found.notes
    assert found.losses[-1].a == 1.0


def test_the_warm_up_of_every_attempt_is_left_out(tmp_path: Path) -> None:
    cold = [10 * TICK_NS] * 20 + [TICK_NS] * 60
    record(tmp_path / "a", cold)
    a = record(tmp_path / "a", cold, resume=True, first=61)
    b = record(tmp_path / "b", [TICK_NS] * 80)
    found = compare(a, b, skip=20)
    assert found.measures["tick_mean_ns"] == Measure(TICK_NS, TICK_NS, 1.0, 1.0, 1.0)
    assert (found.a.ticks, found.b.ticks) == (100, 60)
    assert compare(a, b).skip == 8, "a tenth of the shorter run"
    assert compare(a, b, skip=0).measures["tick_mean_ns"].ratio < 0.5


def test_invalid_numbers(tmp_path: Path) -> None:
    a, b = record(tmp_path / "a", walls(1)), record(tmp_path / "b", walls(2, 52))
    with pytest.raises(ConfigError, match=r"at least 50 ticks .* first 5 .*; got 47 in .*b;"):
        compare(a, b)
    assert compare(a, b, skip=2).b.ticks == 50
    with pytest.raises(ConfigError, match="at least 50 ticks"):
        compare(record(tmp_path / "c", []), a)
    with pytest.raises(ConfigError, match="skip must be a number of ticks; got -1"):
        compare(a, a, skip=-1)
    for limit in (-0.1, math.nan):
        with pytest.raises(ConfigError, match="limit must be at least 0"):
            compare(a, a, limit=limit)


def figures(found: Comparison) -> dict[str, Measure]:
    return found.measures | {f"phase {name}": phase for name, phase in found.phases.items()}


@settings(max_examples=3, deadline=None)
@given(
    st.lists(st.integers(0, 10**10), min_size=50, max_size=60),
    st.lists(st.integers(1, 10**10), min_size=50, max_size=60),
    st.lists(st.floats() | st.integers(0, 10**6), min_size=1, max_size=5),
)
def test_a_run_is_equal_to_itself_and_swapping_inverts(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[int],
    second: list[int],
    numbers: list[float],
) -> None:
    folder = tmp_path_factory.mktemp("swapped")
    a, b = (
        record(
            folder / name,
            times,
            metrics=lambda tick: {"loss": numbers[tick % len(numbers)], "tokens": tick},
            phases=in_thirds,
        )
        for name, times in (("a", first), ("b", second))
    )
    for figure in figures(compare(a, a, skip=0)).values():
        assert figure.a == figure.b
        assert figure.ratio == 1
        assert figure.low in (1, None)
        assert figure.high in (1, None)
    for loss in compare(a, a, skip=0).losses:
        assert loss.a == loss.b
    there, back = compare(a, b, skip=0), compare(b, a, skip=0)
    assert set(figures(there)) == set(figures(back))
    for name, figure in figures(there).items():
        swapped = figures(back)[name]
        assert (figure.a, figure.b) == (swapped.b, swapped.a)
        assert swapped.ratio == pytest.approx(inverse(figure.ratio))
        assert inverse(swapped.low) == pytest.approx(figure.high)
        assert inverse(swapped.high) == pytest.approx(figure.low)
    assert [(loss.at, loss.a, loss.b) for loss in there.losses] == [
        (loss.at, loss.b, loss.a) for loss in back.losses
    ]


def inverse(ratio: float | None) -> float | None:
    return None if ratio is None else 1 / ratio if ratio else math.inf
