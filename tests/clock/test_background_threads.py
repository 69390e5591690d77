import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from metronorm.clock import Clock, StallWatch
from metronorm.clock import background_threads as watcher
from metronorm.clock.background_threads import Watcher
from metronorm.clock.resources import Resources
from metronorm.clock.stall import Stalls, notify
from metronorm.runs import open_run

from . import records
from .virtual import VirtualTime

SECOND = 10**9
MEGABYTE = 1 << 20
KEEP = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"


def fail(*arguments: object, **keywords: object) -> Any:
    raise psutil.AccessDenied(1, "somebody")


# --- samples --------------------------------------------------------------------------------------


def test_even_the_shortest_run_has_samples(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(3)))
    rows = open_run(tmp_path / "run").resources().rows()
    assert len(rows) >= 2, "at its begin and at its end"
    assert rows[-1]["tick"] == 3
    assert rows[0]["memory_bytes"] > MEGABYTE
    assert clock.latest_resources["memory_bytes"] == rows[-1]["memory_bytes"]


def test_what_is_not_sampled_is_an_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(psutil, "virtual_memory", fail)
    sampled = threading.Semaphore(0)
    sample = Resources.sample

    def counted(resources: Resources) -> dict[str, float]:
        sampled.release()
        return sample(resources)

    monkeypatch.setattr(Resources, "sample", counted)
    with Clock(tmp_path / "run", progress=False):
        for _ in range(5):
            assert sampled.acquire(timeout=60)
    events = records.events(tmp_path / "run")
    missing = [event["fields"] for event in events if event["event"] == "not sampled"]
    assert [fields["what"] for fields in missing] == ["machine"]
    assert missing[0]["why"].startswith("AccessDenied")
    assert len(open_run(tmp_path / "run").resources().rows()) >= 5


def test_a_sample_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hangs, as it does for a GPU that has fallen off its bus."""
    monkeypatch.setattr(watcher, "PATIENCE_SECONDS", 0.0)
    hangs, answers = threading.Event(), threading.Event()

    def hang(resources: Resources) -> dict[str, float]:
        hangs.set()
        assert answers.wait(60)
        return {}

    monkeypatch.setattr(Resources, "sample", hang)
    seen: list[dict[str, float]] = []
    watching = Watcher(lambda: 0, lambda: True, seen.append, lambda name, **fields: {}, None)
    assert hangs.wait(60)
    watching.close()
    assert seen == []
    answers.set()
    for thread in watching._threads:
        thread.join(60)
        assert not thread.is_alive()


# --- stalls ---------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    """The watcher looks all the time; its time moves on command."""
    moved = VirtualTime()
    monkeypatch.setattr(watcher, "PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(
        watcher, "time", SimpleNamespace(monotonic_ns=moved, monotonic=time.monotonic)
    )
    return moved


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released at every look."""
    looks = threading.Semaphore(0)
    look = Stalls.look

    def counted(stalls: Stalls, tick: int, now_ns: int) -> float | None:
        try:
            return look(stalls, tick, now_ns)
        finally:
            looks.release()

    monkeypatch.setattr(Stalls, "look", counted)
    return looks


def see(looked: threading.Semaphore) -> None:
    """Wait until the watcher has looked at the present state."""
    for _ in range(2):
        while looked.acquire(blocking=False):
            pass
        assert looked.acquire(timeout=60)


def test_a_clock_notices_a_loop_that_hangs(
    tmp_path: Path,
    quick: VirtualTime,
    looked: threading.Semaphore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notified = threading.Event()

    def notify_and_set(watch: StallWatch, event: dict[str, Any], folder: Path | None) -> None:
        notify(watch, event, folder)
        notified.set()

    monkeypatch.setattr(watcher, "notify", notify_and_set)
    monkeypatch.chdir(tmp_path)
    watch = StallWatch(command=(sys.executable, "-c", KEEP, "event"))
    run = tmp_path / "run"
    with Clock(run, progress=False, stall=watch) as clock:
        monkeypatch.chdir("/")
        for number in clock.ticks(range(12)):
            see(looked)
            quick.pass_(SECOND)
            if number == 9:
                quick.pass_(90 * SECOND)
                assert notified.wait(60), "this is where it hangs"
                assert [event["event"] for event in records.events(run)][-1] == "stall"
    stalls = [event for event in records.events(run) if event["event"] == "stall"]
    assert [(event["tick"], event["fields"]["seconds"]) for event in stalls] == [(10, 91.0)]
    assert "in test_a_clock_notices_a_loop_that_hangs" in stalls[0]["fields"]["stacks"]
    assert "Thread metronorm-writer:" in stalls[0]["fields"]["stacks"]
    message = json.loads((tmp_path / "event").read_bytes())
    assert message["fields"] == stalls[0]["fields"]


def test_a_stall_is_noticed_though_the_gpu_does_not_answer(
    quick: VirtualTime, looked: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, notified = threading.Event(), threading.Event()
    monkeypatch.setattr(watcher, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(Resources, "sample", lambda resources: answers.wait(60) and {})
    events: list[str] = []

    def take(name: str, **fields: Any) -> dict[str, Any]:
        events.append(name)
        notified.set()
        return {}

    tick = 0
    watching = Watcher(lambda: tick, lambda: True, lambda values: None, take, StallWatch())
    for _ in range(10):
        see(looked)
        quick.pass_(SECOND)
        tick += 1
    see(looked)
    quick.pass_(90 * SECOND)
    assert notified.wait(60)
    assert events == ["stall"]
    watching.close()
    answers.set()
    for thread in watching._threads:
        thread.join(60)


def test_without_a_stall_watch_there_is_no_thread_for_it(
    tmp_path: Path, quick: VirtualTime, looked: threading.Semaphore
) -> None:
    with Clock(tmp_path / "run", progress=False, stall=None):
        quick.pass_(10**6 * SECOND)
        names = {thread.name for thread in threading.enumerate()}
        assert "metronorm-watcher" in names
        assert "metronorm-stall" not in names
    assert not looked.acquire(blocking=False)


@pytest.mark.parametrize("paused", [True, False])
def test_between_loops_there_are_no_stalls(
    quick: VirtualTime, looked: threading.Semaphore, paused: bool
) -> None:
    notified, asked = threading.Event(), threading.Semaphore(0)
    tick, runs = 0, True

    def running() -> bool:
        asked.release()
        return runs

    def take(name: str, **fields: Any) -> dict[str, Any]:
        notified.set()
        return {}

    watching = Watcher(lambda: tick, running, lambda values: None, take, StallWatch())
    for _ in range(10):
        see(looked)
        quick.pass_(SECOND)
        tick += 1
    see(looked)
    runs = not paused
    see(asked)
    quick.pass_(90 * SECOND)
    see(asked)
    runs = True
    if not paused:
        assert notified.wait(60)
    see(looked)
    watching.close()
    assert notified.is_set() is not paused
