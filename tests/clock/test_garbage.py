"""Time of Python's garbage collector in a tick."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metronorm.clock import Clock, _ticking
from metronorm.clock import phase_accounts as accounts
from metronorm.store.tape import encode
from metronorm.store.unsealed_lines import DECODERS

from . import records
from .virtual import VirtualTime

LONG_NS = 10_000_000


@pytest.fixture(params=[_ticking.Pauses, accounts.PlainPauses])
def pauses_type(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_collections_are_added_up_and_long_ones_kept(pauses_type: Any) -> None:
    now = VirtualTime()
    pauses = pauses_type(now, LONG_NS)
    pauses.notice("stop", {"generation": 0})  # it had begun before
    begun = []
    for generation, ns in [(0, 5), (2, LONG_NS), (1, LONG_NS - 1)]:
        begun.append(now())
        pauses.notice("start", {"generation": generation})
        now.pass_(ns)
        pauses.notice("stop", {"generation": generation, "collected": 1})
        now.pass_(1_000)
    assert pauses.take() == 2 * LONG_NS + 4
    assert pauses.take() == 0
    assert pauses.take_longest() == [(2, begun[1], LONG_NS)]
    assert pauses.take_longest() == []


def test_wrong_arguments() -> None:
    unmade = _ticking.Pauses.__new__(_ticking.Pauses)
    for call in (lambda: unmade.notice("start", {}), unmade.take_longest):
        with pytest.raises(RuntimeError, match="__init__ was not called"):
            call()
    made = _ticking.Pauses(VirtualTime(), 1)
    arguments: Any
    for arguments in ((), ("start",), (1, {}), ("start", [])):
        with pytest.raises(TypeError):
            made.notice(*arguments)
    for arguments in ((), (VirtualTime(),), (VirtualTime(), "1")):
        with pytest.raises(TypeError):
            _ticking.Pauses(*arguments)

    def no_time() -> int:
        raise KeyError("no time")

    with pytest.raises(KeyError):
        _ticking.Pauses(no_time, 1).notice("start", {})


class Ring:
    """Garbage that only the collector finds, and that runs a function when it is collected."""

    def __init__(self, at_end: Callable[[], None]) -> None:
        self.own, self.at_end = self, at_end

    def __del__(self) -> None:
        self.at_end()


def compute_long() -> None:
    until = time.perf_counter_ns() + LONG_NS
    while time.perf_counter_ns() < until:
        pass


def gc_ns(run: Path) -> list[int]:
    """The values on the tape."""
    lines = (run / "ticks" / "attempt=0" / "rank=0" / "_live.jsonl").read_bytes().splitlines()
    return [DECODERS["ticks"].decode(line).gc_ns for line in lines]


def test_ticks_record_collection_times_and_long_pauses_are_events(tmp_path: Path) -> None:
    begun = time.time_ns()
    gc.disable()
    try:
        with Clock(tmp_path / "run", progress=False) as clock:
            gc.collect()
            for number in clock.ticks(range(4)):
                if number == 1:
                    gc.collect(0)
                if number == 2:
                    Ring(compute_long)
                    gc.collect()
            clock.flush()
            first, second, third, fourth = gc_ns(tmp_path / "run")
            Ring(compute_long)
            gc.collect()
    finally:
        gc.enable()
    assert first == fourth == 0
    assert 0 < second < third
    assert third >= LONG_NS
    assert all(
        spent <= tick["wall_ns"]
        for spent, tick in zip(
            (first, second, third, fourth), records.ticks(tmp_path / "run"), strict=True
        )
    )
    long = [event for event in records.all_events(tmp_path / "run") if event["event"] == "gc"]
    long = [event for event in long if event["tick"]]  # the first one may be long, too
    assert [event["tick"] for event in long] == [3, 4]
    for event in long:
        assert event["fields"].keys() == {"generation", "start_ns", "duration_ns"}
        assert event["fields"]["generation"] == 2
        assert event["fields"]["duration_ns"] >= LONG_NS
        end = event["fields"]["start_ns"] + event["fields"]["duration_ns"]
        assert begun < event["fields"]["start_ns"] < end
        assert abs(end - event["time_ns"]) < 3_600 * 10**9


def test_a_collection_may_begin_inside_the_clock(tmp_path: Path) -> None:
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with Clock(tmp_path / "run", progress=False) as clock:
            for number in clock.ticks(range(200)):
                Ring(lambda: None)
                with clock.phase("forward"):
                    clock.log(loss=number)
                clock.event("collected", fields={"number": [number]})
    finally:
        gc.set_threshold(*before)
    assert len(records.ticks(tmp_path / "run")) == 200


@pytest.mark.parametrize("way", ["closed", "failed", "forgotten"])
def test_nothing_is_left_behind(tmp_path: Path, way: str) -> None:
    before = list(gc.callbacks)
    clock = Clock(tmp_path / "run", progress=False).open()
    assert len(gc.callbacks) == len(before) + 1
    if way == "forgotten":
        clock.detach_after_fork()
    else:
        clock.close(KeyError("broken") if way == "failed" else None)
    clock.close()
    assert gc.callbacks == before


def test_lines_of_older_runs_have_no_collection_time() -> None:
    line = {"tick": 1, "time_ns": 1, "wall_ns": 1, "beats": 1, "phases": {}, "metrics": {}}
    assert DECODERS["ticks"].decode(encode(line)).gc_ns is None
