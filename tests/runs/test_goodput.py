from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.runs import open_run
from metronorm.runs.goodput import Goodput, goodput
from metronorm.store.tape import encode

from ..store.stores import line, new_run, write_tape

START_NS = 1_800_000_000_000_000_000

# for each tick its duration, and the time outside of ticks before it, in nanoseconds
tick_times = st.tuples(st.integers(0, 10**10), st.sampled_from([0, 0, 7, 10**9]))
attempt_forms = st.fixed_dictionaries(
    {
        "first": st.integers(1, 6),
        "ticks": st.lists(tick_times, max_size=4),
        "begin": st.integers(0, 10**9),
        "end": st.none() | st.integers(0, 10**9),  # None: killed
        "down": st.integers(0, 10**12),
    }
)


def event(name: str, time_ns: int) -> bytes:
    return encode({"event": name, "tick": 0, "time_ns": time_ns, "fields": {}})


@settings(max_examples=13, deadline=None)
@given(st.lists(attempt_forms, min_size=1, max_size=4), st.integers(0, 2))
def test_every_nanosecond_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[dict[str, Any]], rank: int
) -> None:
    run = new_run(tmp_path_factory.mktemp("goodput") / "run")
    now = START_NS
    spent = overhead = down = 0
    lived: dict[int, int] = {}
    for number, attempt in enumerate(attempts):
        begun = now
        events = [event("start", now)]
        now += attempt["begin"]
        lines = []
        last = begun  # the time of the last record
        for offset, (wall_ns, gap_ns) in enumerate(attempt["ticks"]):
            now += gap_ns + wall_ns
            lines.append(line(attempt["first"] + offset, wall_ns=wall_ns, time_ns=now))
            last = now
        if attempt["end"] is not None:
            now += attempt["end"]
            events.append(event("end", now))
            last = now
        write_tape(run, events, kind="events", attempt=number, rank=rank)
        write_tape(run, lines, attempt=number, rank=rank)
        # another rank runs at the same time, and adds none
        write_tape(run, lines, attempt=number, rank=rank + 1)
        walls = [wall_ns for wall_ns, _ in attempt["ticks"]]
        spent += sum(walls)
        overhead += last - begun - sum(walls)
        if walls:
            lived = {tick: ns for tick, ns in lived.items() if tick < attempt["first"]}
            lived |= {attempt["first"] + offset: ns for offset, ns in enumerate(walls)}
        if number < len(attempts) - 1:
            now += attempt["down"]
            down += now - last
    forward = sum(lived.values())
    found = goodput(open_run(run))
    assert found == Goodput(
        total=(spent + overhead + down) / 1e9,
        forward=forward / 1e9,
        replayed=(spent - forward) / 1e9,
        overhead=overhead / 1e9,
        down=down / 1e9,
    )
    parts = found.forward + found.replayed + found.overhead + found.down
    assert parts == pytest.approx(found.total)
    assert found.share is None or 0 <= found.share <= 1


def test_a_run_that_was_resumed(tmp_path: Path) -> None:
    """Ticks of ten seconds; the third is done again after a kill."""
    run = new_run(tmp_path / "run")
    ends = {0: {1: 11, 2: 21, 3: 31}, 1: {3: 50, 4: 60}}
    for attempt, begun in ((0, 0), (1, 36)):
        began = event("start", START_NS + begun * 10**9)
        write_tape(run, [began], kind="events", attempt=attempt)
        lines = [
            line(tick, wall_ns=10**10, time_ns=START_NS + end * 10**9)
            for tick, end in ends[attempt].items()
        ]
        write_tape(run, lines, attempt=attempt)
    found = goodput(open_run(run))
    assert found == Goodput(total=60, forward=40, replayed=10, overhead=5, down=5)
    assert found.share == pytest.approx(2 / 3)


def test_a_branch_is_no_loss(tmp_path: Path) -> None:
    """The same, with a third attempt that branches at once, or 1,000 seconds later, from tick 1."""
    run = new_run(tmp_path / "run")
    ends = {0: {1: 11, 2: 21, 3: 31}, 1: {3: 50, 4: 60}, 2: {2: 1075}}
    for attempt, begun in ((0, 0), (1, 36), (2, 1060)):
        events = [event("start", START_NS + begun * 10**9)]
        if attempt == 2:
            fields = {"checkpoint": "tick-00000001", "changed": []}
            line_ = {"event": "branch", "tick": 1, "time_ns": START_NS + 1061 * 10**9}
            events.append(encode(line_ | {"fields": fields}))
        write_tape(run, events, kind="events", attempt=attempt)
        lines = [
            line(tick, wall_ns=10**10, time_ns=START_NS + end * 10**9)
            for tick, end in ends[attempt].items()
        ]
        write_tape(run, lines, attempt=attempt)
    found = goodput(open_run(run))
    # the first attempt's third tick was done again; its second, and two of the next, were left
    assert found == Goodput(
        total=1075, forward=20, replayed=10, overhead=10, down=5, branched=30 + 1000
    )
    assert found.share == pytest.approx(20 / 45)


def test_a_run_in_which_nothing_happened(tmp_path: Path) -> None:
    found = goodput(open_run(new_run(tmp_path / "run")))
    assert found == Goodput(0, 0, 0, 0, 0)
    assert found.share is None
