import math
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metronorm.clock import Clock
from metronorm.errors import RunError
from metronorm.runs.curves import POINTS, Curve, Curves
from metronorm.runs.following import Follower
from metronorm.runs.following import follower as live
from metronorm.runs.following.recent import EVENTS, WINDOW
from metronorm.runs.following.snapshot import Snapshot
from metronorm.store import writer

from ..clock.virtual import VirtualTime

MILLISECOND = 1_000_000


def record(
    run: Path,
    first: int,
    last: int,
    *,
    resume: bool = False,
    tick_ns: int = MILLISECOND,
    **options: Any,
) -> None:
    """The ticks from `first` to `last`, a quarter of each in `forward`, the rest in `backward`."""
    time = VirtualTime()
    with Clock(run, resume=resume, progress=False, now=time, **options) as clock:
        for _ in clock.ticks(range(last - first + 1), initial=first - 1):
            with clock.phase("forward"):
                time.pass_(tick_ns // 4)
            with clock.phase("backward"):
                time.pass_(tick_ns - tick_ns // 4)
            clock.log(loss=float(clock.tick), tokens=64)


def read(run: Path) -> Snapshot:
    return Follower(run).read()


def plain(seen: Snapshot) -> Snapshot:
    """The snapshot without what the machine does meanwhile."""
    ranks = tuple(replace(rank, memory_bytes=None) for rank in seen.ranks)
    return replace(seen, time_ns=0, resources={}, rates={}, ranks=ranks)


def test_a_run_as_it_is_now(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", config={"ticks": 40}, progress=False, now=time) as clock:
        follower = Follower(tmp_path / "run")
        for tick in clock.ticks(range(1, 31)):
            with clock.phase("forward"):
                time.pass_(3 * MILLISECOND)
            with clock.phase("update"):
                time.pass_(MILLISECOND)
            clock.log(loss=math.nan if tick == 5 else 1 / tick, tokens=100)
            if tick == 20:
                clock.log(validation_loss=0.5)
                clock.event("checkpoint", path="tick-20")
        seen = follower.read()
    assert (seen.name, seen.state, seen.attempts) == ("run", "running", 1)
    assert (seen.tick, seen.total) == (30, 40)
    assert seen.seconds_left == pytest.approx(0.04)
    assert seen.median_tick_ns == 4 * MILLISECOND
    assert seen.ticks_per_second == pytest.approx(250)
    assert seen.per_second == pytest.approx(25_000)
    assert seen.phases == {"forward": pytest.approx(0.75), "update": pytest.approx(0.25)}
    assert seen.latest == {"loss": 1 / 30, "tokens": 100, "validation_loss": 0.5}
    loss = seen.curves["loss"]
    assert loss.points() == [(tick, 1 / tick) for tick in range(1, 31) if tick != 5]
    assert loss.not_finite == [int(tick == 5) for tick in range(1, 31)]
    assert seen.curves["validation_loss"] == Curve([20], [0.5], [0.5], [0.5], [0])
    assert seen.tick_ns is not None
    assert seen.tick_ns.points() == [(tick, 4.0 * MILLISECOND) for tick in range(1, 31)]
    assert [rank.tick for rank in seen.ranks] == [30]
    assert seen.tick_time_ns == seen.ranks[0].time_ns
    by_name = {event.name: event for event in seen.events}
    assert by_name["checkpoint"].tick == 20
    assert by_name["checkpoint"].fields == {"path": "tick-20"}

    after = follower.read()
    assert after.state == "finished"
    assert after.seconds_left is None
    assert after.events[0].name == "end", "the newest first"


def test_a_run_without_ticks(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False):
        seen = read(tmp_path / "run")
    assert seen.state == "running"
    assert (seen.tick, seen.ranks, seen.curves, seen.phases) == (0, (), {}, {})
    assert seen.tick_ns == Curve()
    assert seen.ticks_per_second is None
    shutil.rmtree(tmp_path / "run" / "events")
    assert read(tmp_path / "run").state == "not begun"


def test_only_values_that_are_not_finite(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for value in clock.ticks([math.nan, math.inf, -math.inf, math.nan]):
            clock.log(loss=value, tokens=value)
    seen = read(tmp_path / "run")
    assert math.isnan(seen.latest["loss"])
    assert seen.curves.keys() == {"loss", "tokens"}
    for curve in seen.curves.values():
        assert curve.points() == []
        assert curve.not_finite == [1] * 4


@settings(max_examples=3, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.lists(st.integers(1, 150), max_size=4)),
        min_size=1,
        max_size=3,
    )
)
@example([(1, [120, 1, 100, 200]), (300, [50, 120]), (7, [1])])
def test_reading_in_pieces_gives_what_reading_at_once_gives(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, list[int]]]
) -> None:
    """However often the run was read before, through resumes and thinning."""
    run = tmp_path_factory.mktemp("live") / "run"
    with Clock(run, progress=False):
        follower = Follower(run)
    for first, parts in attempts:
        time = VirtualTime()
        with Clock(run, resume=True, progress=False, now=time) as clock:
            time.pass_(1)  # otherwise events at the same time might come in any order
            clock.tick = first - 1
            for count in parts:
                for _ in clock.ticks(range(count)):
                    time.pass_(MILLISECOND)
                    clock.log(loss=math.inf if clock.tick % 7 == 0 else clock.tick)
                    if clock.tick % 50 == 0:
                        clock.log(rare=clock.tick)
                assert plain(follower.read()) == plain(read(run))
                time.pass_(1)
    seen = follower.read()
    assert plain(seen) == plain(read(run))
    for curve in seen.curves.values():
        assert curve.ticks == sorted(set(curve.ticks))
        assert len(curve.ticks) <= POINTS
        assert max(curve.ticks) <= max(first - 1 + sum(parts) for first, parts in attempts)


def test_a_long_curve_keeps_its_shape(tmp_path: Path) -> None:
    record(tmp_path / "run", 1, 10 * POINTS)
    curve = read(tmp_path / "run").curves["loss"]
    assert POINTS / 2 <= len(curve.ticks) <= POINTS
    stretch = curve.ticks[1] - curve.ticks[0]
    assert len(curve.points()) == len(curve.ticks)
    assert all(abs(tick - value) <= stretch for tick, value in curve.points())


def test_rates_are_of_the_last_ticks(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for tick in clock.ticks(range(3 * WINDOW)):
            with clock.phase("forward" if tick >= 2 * WINDOW else "compile"):
                time.pass_(MILLISECOND if tick >= 2 * WINDOW else 1_000 * MILLISECOND)
    seen = read(tmp_path / "run")
    assert seen.ticks_per_second == pytest.approx(1_000)
    assert seen.phases == {"forward": pytest.approx(1.0)}


def test_ranks_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    record(run, 1, 20, config={"ticks": 20})
    follower = Follower(run)
    assert len(follower.read().ranks) == 1
    monkeypatch.setenv("RANK", "1")
    record(run, 1, 18, tick_ns=2 * MILLISECOND)
    seen = follower.read()
    assert [(rank.rank, rank.tick, rank.tick_ns) for rank in seen.ranks] == [
        (0, 20, MILLISECOND),
        (1, 18, 2 * MILLISECOND),
    ]
    assert seen.per_second == pytest.approx(64_000 + 32_000)
    assert seen.ticks_per_second == pytest.approx(750)
    assert seen.tick_ns is not None
    assert seen.tick_ns.mean == [1.5 * MILLISECOND] * 18 + [MILLISECOND] * 2
    assert seen.state == "finished"


def test_what_machines_use(tmp_path: Path) -> None:
    time = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=time) as clock:
        for _ in clock.ticks(range(3)):
            sum(range(200_000))
            time.pass_(1_000 * MILLISECOND)
    seen = read(tmp_path / "run")
    assert seen.resources["memory_bytes"] > 2**20
    assert seen.ranks[0].memory_bytes == seen.resources["memory_bytes"]
    assert "tick" not in seen.resources


def test_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Clock(tmp_path / "failed", progress=False):
        raise KeyError
    assert read(tmp_path / "failed").state == "failed: KeyError"
    with Clock(tmp_path / "stopped", progress=False) as clock:
        clock.event("signal", signal="SIGTERM")
    assert read(tmp_path / "stopped").state == "stopped by SIGTERM"
    with Clock(tmp_path / "stopped", resume=True, progress=False):
        assert read(tmp_path / "stopped").state == "running"


def test_a_killed_run_is_not_running(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from metronorm.clock import Clock\n"
        "with Clock(sys.argv[1], progress=False) as clock:\n"
        "    list(clock.ticks(range(3)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    seen = read(tmp_path / "run")
    assert seen.state == "killed"
    assert seen.tick == 3


def test_whether_a_process_of_another_machine_lives_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Clock(tmp_path / "run", progress=False):
        monkeypatch.setattr(platform, "node", lambda: "elsewhere")
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("asked for its process"))
        assert read(tmp_path / "run").state == "running"


def test_only_the_newest_of_many_events_are_shown(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for number in range(2 * EVENTS):
            clock.event("note", number=number)
        clock.event("start", mine=True)  # the clock's own says the process
        seen = read(tmp_path / "run")
    assert len(seen.events) == EVENTS
    assert seen.events[1].fields == {"number": 2 * EVENTS - 1}
    assert seen.state == "running"


def test_names_that_need_quoting(tmp_path: Path) -> None:
    name = "größe 'x' \"y\""
    with Clock(tmp_path / "it's [odd] *", progress=False) as clock:
        for _ in clock.ticks(range(2)):
            with clock.phase(name):
                clock.log(**{name: 1.5})
    seen = read(tmp_path / "it's [odd] *")
    assert seen.latest == {name: 1.5}
    assert name in seen.phases


def test_a_run_that_is_removed_and_one_in_its_place(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run, 1, 50)
    follower = Follower(run)
    assert follower.read().tick == 50
    shutil.rmtree(run)
    with pytest.raises(RunError, match="which does not exist"):
        follower.read()
    record(run, 1, 3)
    assert plain(follower.read()) == plain(read(run))
    assert follower.read().tick == 3


def test_a_run_half_of_which_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run, 1, 3)
    follower = Follower(run)
    assert follower.read().tick == 3
    shutil.rmtree(run / "ticks")
    assert follower.read().tick == 0


def test_following_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB opens nothing, and only lines that were written meanwhile are decoded."""
    with Clock(tmp_path / "run", progress=False) as clock:
        loop = clock.ticks(range(1_000))
        for _ in range(900):
            next(loop)
        follower = Follower(tmp_path / "run")
        follower.read()
        monkeypatch.setattr(live, "open_run", lambda _: pytest.fail("read it all again"))
        decoded = []
        add = Curves.add
        monkeypatch.setattr(
            Curves,
            "add",
            lambda self, tick, values: (decoded.append(tick), add(self, tick, values)),
        )
        for tick in range(900, 910):
            next(loop)
            assert follower.read().tick == tick
        assert decoded == list(range(900, 910))


def test_stretches_that_end_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are still lines, already Parquet, or both."""
    monkeypatch.setattr(writer, "STRETCH_BYTES", 2_000)
    run = tmp_path / "run"
    time = VirtualTime()
    with Clock(run, progress=False, now=time) as clock:
        follower = Follower(run)
        for _ in clock.ticks(range(300)):
            time.pass_(MILLISECOND)
            clock.log(loss=clock.tick)
            if clock.tick % 20 == 0:
                assert plain(follower.read()) == plain(read(run))
    assert plain(follower.read()) == plain(read(run))
    assert len(list(run.glob("ticks/*/*/part-*.parquet"))) > 1
