import enum
import logging
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metronorm.clock import Clock
from metronorm.clock import column_names as module
from metronorm.clock.phase_timer import Ledger
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.store.schema import UNATTRIBUTED

from . import records
from .virtual import VirtualTime

HOUR = 3_600 * 10**9


def new_clock(run: Path, **more: Any) -> Clock:
    return Clock(run, progress=False, stall=None, **more)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "must not be empty"),
        *((name, "one of the record's own") for name in ("attempt", "rank", "tick", "beats")),
        *((name, "one of the record's own") for name in ("Attempt", "RANK", "Tick")),
        *((name, "one of the record's own") for name in ("wall_ns", "forward_ns", "_ns")),
        *((name, "one of the record's own") for name in ("Wall_Ns", "forward_NS")),
        ("a\0b", "must be text"),
        ("\ud83d", "must be text"),
        ("Loss", "'Loss' and 'loss'"),
    ],
)
def test_names_that_cannot_be_columns_of_their_own(tmp_path: Path, name: str, why: str) -> None:
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(2)):
            clock.log(loss=1.0)
            for _ in range(2):
                with pytest.raises(ConfigError, match=why):
                    clock.log(**{name: 1.0})
    assert [tick["metrics"] for tick in records.ticks(tmp_path / "run")] == [{"loss": 1.0}] * 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *((name, "a phase needs a name") for name in ("", "unattributed", "time", "wall")),
        *((name, "a phase needs a name") for name in ("Unattributed", "CLOCK", "Arrival", None, 7)),
        ("a\0b", "must be text"),
        ("\ud83d", "must be text"),
        ("Forward", "'Forward' and 'forward'"),
    ],
)
def test_names_that_phases_cannot_have(name: Any, why: str) -> None:
    ledger = Ledger(VirtualTime())
    ledger.begin()
    with ledger.phases["forward"]:
        pass
    for _ in range(2):
        with pytest.raises(ConfigError, match=why):
            ledger.phases[name]
    assert ledger.close() == (0, {UNATTRIBUTED: 0})


# what means something to SQL, to DuckDB's readers, or in our own queries
SPECIAL = [
    *("select", "from", "null", "rowid", "filename", "file_row_number", "file_index", "lines"),
    *("metrics", "phases", "_", "_ns_", "fields", "key", "position", "ticks", "columns", "clock"),
    *("time", "wall", "ns", "forward", "a.b", "layers.0.weight", 'a"b', "a'b", "a;b", "a--b", "*"),
    *("a\nb", "\t", " ", "{}", "[0]", "$a", "?", "%s", "\\", "\\u0000", "é", "e\u0301", "\ufeff"),
    *("損失", "🙂", "\U0010ffff", "\x7f", "ß", "ẞ", "İ", "null_", "nan", "inf"),
]
names = st.one_of(
    st.sampled_from(SPECIAL),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
)
_reserved = {"attempt", "rank", "tick", "beats"}
metrics = names.filter(
    lambda name: name.lower() not in _reserved and not name.lower().endswith("_ns")
)
phases = names.filter(
    lambda name: name.lower() not in {"time", "wall", "clock", "arrival", UNATTRIBUTED}
)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(metrics, unique_by=str.lower, min_size=1, max_size=40),
    st.lists(phases, unique_by=str.lower, max_size=10),
)
@example(list({name.lower(): name for name in SPECIAL}.values()), SPECIAL[:10])
def test_all_other_names_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, metrics: list[str], phases: list[str]
) -> None:
    run = tmp_path_factory.mktemp("clock") / "run"
    values = {name: number / 4 for number, name in enumerate(metrics)}
    time = VirtualTime()

    def check() -> None:
        tick = records.ticks(run)[0]
        assert tick["metrics"] == values
        assert list(tick["metrics"]) == metrics, "in the order in which they were values"
        assert tick["phases"] == dict.fromkeys(phases, 7) | {UNATTRIBUTED: 0}
        assert tick["wall_ns"] == 7 * len(phases)

    with new_clock(run, now=time) as clock:
        clock.begin_tick()
        clock.log(**values)
        for name in phases:
            with clock.phase(name):
                time.pass_(7)
        clock.end_tick()
        check()  # from lines
    check()  # from a part that is sealed
    assert open_run(run).notices() == []


def test_names_that_are_too_many_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.MOST == 10_000
    monkeypatch.setattr(module, "MOST", 100)
    with caplog.at_level(logging.WARNING), new_clock(tmp_path / "run") as clock:
        for tick in clock.ticks(range(120)):
            clock.log(**{f"loss_{tick}": 1.0}, loss=float(tick))
            clock.log(**{f"LOSS_{tick + 200}": 1.0} if tick > 110 else {})
        assert len(clock._recording._names._by_lower_case) == 100, "those left out are not kept"
    assert [record.getMessage() for record in caplog.records] == [
        "a run records 100 names of metrics at most; left out: 'loss_99' ...; is there a number in "
        "the name that should be a metric itself?"
    ]
    ticks = records.ticks(tmp_path / "run")
    assert [tick["metrics"] for tick in ticks] == [
        ({f"loss_{tick}": 1.0} if tick < 99 else {}) | {"loss": float(tick)} for tick in range(120)
    ]


def test_a_run_may_have_ten_thousand_names(tmp_path: Path) -> None:
    values = {f"layer_{number}": float(number) for number in range(10_001)}
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(2)):
            clock.log(**values)
    assert len(open_run(tmp_path / "run").ticks().metrics) == 10_000


# --- numbers --------------------------------------------------------------------------------------


class Half(float):
    """A number of another class, such as libraries have."""


class Level(enum.IntEnum):
    HIGH = 3


NUMBERS: list[tuple[Any, float]] = [
    (True, 1.0),
    (False, 0.0),
    (Half(0.5), 0.5),
    (Level.HIGH, 3.0),
    (2**53, 2.0**53),
    (2**63 - 1, 2.0**63),
    (-(2**63), -(2.0**63)),
    (2**64, 2.0**64),
    (-(2**64), -(2.0**64)),
    (10**30, 1e30),
    (10**308, 1e308),
    (10**400, math.inf),
    (-(10**400), -math.inf),
    (10**5_000, math.inf),  # more digits than Python writes
    (1.7976931348623157e308, 1.7976931348623157e308),
    (5e-324, 5e-324),
    (np.float64(0.1), 0.1),
    (np.float32(0.1), float(np.float32(0.1))),
    (np.float16(0.5), 0.5),
    (np.int8(-3), -3.0),
    (np.uint64(2**64 - 1), 2.0**64),
    (np.bool_(True), 1.0),
    (np.array(2.5), 2.5),
    (np.array([[2.5]]), 2.5),
]


def test_numbers_become_those_of_a_column(tmp_path: Path) -> None:
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            for place, (value, _) in enumerate(NUMBERS):
                clock.log(**{f"value_{place}": value})
        live = records.ticks(tmp_path / "run")
    for read in (live, records.ticks(tmp_path / "run")):
        assert list(read[0]["metrics"].values()) == [recorded for _, recorded in NUMBERS]
    assert open_run(tmp_path / "run").notices() == []


NO_NUMBERS: list[tuple[Any, str]] = [
    ("1.0", "a str"),
    (b"1.0", "a bytes"),
    (None, "a NoneType"),
    (1j, "a complex"),
    ({"loss": 1.0}, "a dict"),
    ([1.0], "a list"),
    (np.zeros(2), "a ndarray of shape (2,)"),
    (np.zeros((0, 3)), "a ndarray of shape (0, 3)"),
    (np.complex64(1), "a complex64 of shape ()"),
    (np.array("text"), "a ndarray of shape ()"),
    (np.datetime64("2026-01-01"), "a datetime64 of shape ()"),
    (np.datetime64("2026-01-01", "ns"), "a datetime64 of shape ()"),
    (np.timedelta64(5, "ns"), "a timedelta64 of shape ()"),
    (float, "a type"),
]


def test_the_error_names_a_value_that_is_no_number(tmp_path: Path) -> None:
    with new_clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            for value, got in NO_NUMBERS:
                with pytest.raises(ConfigError, match="must be one number") as refused:
                    clock.log(before=1.0, value=value)
                assert refused.value.got == f"value = {got}"
    assert records.ticks(tmp_path / "run")[0]["metrics"] == {}


def test_a_metric_may_be_whole_in_one_tick_and_not_in_the_next(tmp_path: Path) -> None:
    values = [1, 0.5, 2**60, True, np.int32(3), float("nan"), 10**400, 2, -0.0]
    with new_clock(tmp_path / "run") as clock:
        for value in clock.ticks(values):
            clock.log(value=value)
    read = [tick["metrics"]["value"] for tick in records.ticks(tmp_path / "run")]
    np.testing.assert_equal(read, [1, 0.5, 2.0**60, 1, 3, math.nan, math.inf, 2, -0.0])
    assert all(type(value) is float for value in read)


# --- whole numbers of somebody else's -------------------------------------------------------------


def test_the_count_may_be_a_number_of_any_library(tmp_path: Path) -> None:
    """A count from a checkpoint may be such a number."""
    with new_clock(tmp_path / "run") as clock:
        clock.tick = np.int64(100)  # type: ignore[assignment]
        clock.begin_tick()
        clock.end_tick(beats=np.int32(4))  # type: ignore[arg-type]
        clock.event("checkpoint")
        list(clock.ticks(range(2), initial=np.uint8(110)))  # type: ignore[arg-type]
    ticks = records.ticks(tmp_path / "run")
    assert [(tick["tick"], tick["beats"]) for tick in ticks] == [(101, 4), (111, 1), (112, 1)]
    events = {event["event"]: event["tick"] for event in records.events(tmp_path / "run")}
    assert events["checkpoint"] == 101
    assert open_run(tmp_path / "run").notices() == []


def test_beats_of_a_batch_that_are_something_else_are_not_counted(tmp_path: Path) -> None:
    class Song:
        beats = np.array([0.5, 1.0, 1.5])

    with new_clock(tmp_path / "run") as clock:
        list(clock.ticks([Song(), Song()]))
    assert [tick["beats"] for tick in records.ticks(tmp_path / "run")] == [1, 1]


# --- time that jumps ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(
    st.lists(
        st.tuples(*[st.integers(-30 * HOUR, 30 * HOUR) | st.integers(0, 10**9)] * 3),
        min_size=1,
        max_size=8,
    )
)
def test_phases_add_up_to_the_wall_whatever_the_time_does(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[tuple[int, int, int]]
) -> None:
    run = tmp_path_factory.mktemp("clock") / "run"
    time = VirtualTime(40 * HOUR)
    moments = []
    with new_clock(run, now=time) as clock:
        for forward, inner, rest in jumps:
            clock.begin_tick()
            moments += [time()] if not moments else []
            with clock.phase("forward"):
                time.pass_(forward)
                with clock.phase("attention"):
                    time.pass_(inner)
            time.pass_(rest)
            clock.end_tick()
            moments.append(time())
    ticks = records.ticks(run)
    assert len(ticks) == len(jumps)
    for tick, (begun, ended) in zip(ticks, pairwise(moments), strict=True):
        assert tick["wall_ns"] == ended - begun
        assert sum(tick["phases"].values()) == tick["wall_ns"]
    assert open_run(run).notices() == []


def test_a_budget_survives_time_that_goes_backwards(tmp_path: Path) -> None:
    time = VirtualTime(1_000 * HOUR)
    with new_clock(tmp_path / "run", now=time, budget=0.0) as clock:
        for _ in clock.ticks(range(300)):
            time.pass_(-HOUR)
    ticks = records.ticks(tmp_path / "run")
    assert [tick["tick"] for tick in ticks] == list(range(1, 301))
    assert {tick["wall_ns"] for tick in ticks} == {-HOUR}
