"""How an attempt stands, in the same words for every reader."""

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from metronorm.clock import Clock
from metronorm.runs import Follower, open_run, summarize
from metronorm.runs.state import AttemptEvents, attempt_state, failure
from metronorm.store import owner
from metronorm.store.owner import Owner, Ownership

KILLED = """
import os, signal, sys
from metronorm.clock import Clock
with Clock(sys.argv[1], progress=False, stall=None) as clock:
    list(clock.ticks(range(3)))
    clock.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("state") / "run"
    subprocess.run([sys.executable, "-c", KILLED, run], check=False)
    return run


@pytest.fixture
def killed(killed_run: Path, tmp_path: Path) -> Path:
    """A run whose process was killed an hour ago; the name in its owner file stays."""
    run = tmp_path / "killed"
    shutil.copytree(killed_run, run)
    touched(run, seconds_ago=3600)
    return run


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for a busy machine."""
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 600.0)


def state(run: Path) -> str:
    """What `show` says, after it was compared with what `watch` says."""
    shown = summarize(open_run(run)).state
    assert Follower(run).read().state == shown
    return shown


def touched(run: Path, *, seconds_ago: float) -> None:
    at = time.time() - seconds_ago
    os.utime(owner._path(run, 0), (at, at))


def read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this is another machine, which sees no lock of the first one."""
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    monkeypatch.setattr(owner, "_machine", lambda: "another boot")


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_killed_on_this_host(killed: Path) -> None:
    assert state(killed) == "killed"
    touched(killed, seconds_ago=0)
    assert state(killed) == "killed", "its lock is free, however late it was touched"


def test_killed_on_another_host(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_elsewhere(monkeypatch)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("asked for a process of this host"))
    assert state(killed) == "running or killed"


def test_running_on_another_host(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its living process touches the owner file; here the test has done it."""
    read_elsewhere(monkeypatch)
    touched(killed, seconds_ago=0)
    assert state(killed) == "running"


def test_running_on_this_host(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:
        assert state(tmp_path / "run") == "running"
        list(clock.ticks(range(3)))
        assert state(tmp_path / "run") == "running"
    assert state(tmp_path / "run") == "finished"


def test_running_whose_lock_reaches_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Clock(tmp_path / "run", progress=False, stall=None):
        read_elsewhere(monkeypatch)
        assert state(tmp_path / "run") == "running"


def test_without_locks(killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    assert state(killed) == "killed", "its process does not exist"
    monkeypatch.setattr(Ownership, "touch", lambda self: None)
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:
        assert clock.flush(), "without locks no ring is shared"
        assert state(tmp_path / "run") == "running"
        touched(tmp_path / "run", seconds_ago=3600)
        assert state(tmp_path / "run") == "running", "its process exists"
        read_elsewhere(monkeypatch)
        assert state(tmp_path / "run") == "running or killed"


def test_a_run_without_an_owner_file(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of older versions have none."""
    shutil.rmtree(killed / ".owners")
    assert state(killed) == "killed"
    read_elsewhere(monkeypatch)
    assert state(killed) == "running or killed"


def test_a_rank_whose_start_is_not_on_its_tape(killed: Path) -> None:
    """Its owner file names its process."""
    assert attempt_state(killed, [0], AttemptEvents()) == "killed"
    owner._path(killed, 0).write_bytes(b"")
    assert attempt_state(killed, [0], AttemptEvents()) == "not begun"


def test_a_killed_run_that_is_claimed_again_is_still_killed(killed: Path) -> None:
    """Until the process that claimed it begins a new attempt."""
    ownership = Ownership(killed, 0)
    assert state(killed) == "killed"
    ownership.release()
    with Clock(killed, resume=True, progress=False, stall=None):
        assert state(killed) == "running"


def test_a_run_that_another_host_has_taken_is_killed(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner._path(killed, 0).write_bytes(msgspec.json.encode(Owner(1, "node-7", "a third boot")))
    assert state(killed) == "killed"
    read_elsewhere(monkeypatch)
    assert state(killed) == "killed"


@pytest.mark.parametrize("content", [b"garbage", b"{}"])
def test_a_damaged_owner_file(
    killed: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner._path(killed, 0).write_bytes(content)
    touched(killed, seconds_ago=3600)
    assert state(killed) == "killed", "its process does not exist"
    read_elsewhere(monkeypatch)
    assert state(killed) == "running or killed"


def test_how_an_attempt_ended(tmp_path: Path) -> None:
    def ended(name: str, error: type[BaseException] | None, **signal: str) -> str:
        with (
            contextlib.suppress(KeyError, KeyboardInterrupt),
            Clock(tmp_path / name, progress=False, stall=None) as clock,
        ):
            if signal:
                clock.event("signal", **signal)
            if error:
                raise error
        return state(tmp_path / name)

    assert ended("a", None) == "finished"
    assert ended("b", None, signal="SIGTERM") == "stopped by SIGTERM"
    assert ended("c", KeyboardInterrupt, signal="SIGINT") == "stopped by SIGINT"
    assert ended("d", KeyboardInterrupt) == "stopped by KeyboardInterrupt"
    assert ended("e", KeyError) == "failed: KeyError"
    assert ended("f", KeyError, signal="SIGTERM") == "failed: KeyError"


def test_several_ranks_have_the_worst_state(tmp_path: Path) -> None:
    here = {"process": os.getpid(), "host": platform.node()}
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    events = AttemptEvents()
    assert attempt_state(tmp_path, [], events) == "not begun"
    events.add("start", 0, here)
    events.add("start", 1, here)
    events.add("start", 1, {"text": "recorded by a script"})
    assert attempt_state(tmp_path, [], events) == "running"
    events.add("start", 2, here | {"host": "elsewhere"})
    assert attempt_state(tmp_path, [], events) == "running or killed"
    events.add("start", 3, here | {"process": process.pid})
    assert attempt_state(tmp_path, [], events) == "killed"
    for rank in (1, 2, 3):
        events.add("end", rank, {})
    assert attempt_state(tmp_path, [], events) == "running", "rank 0 has not ended"
    events.add("end", 0, {})
    assert attempt_state(tmp_path, [], events) == "finished"


@pytest.mark.parametrize("process", [None, 0, -1, "7", True, 10**30])
def test_a_start_without_a_usable_process(tmp_path: Path, process: object) -> None:
    events = AttemptEvents()
    events.add("start", 0, {"process": process, "host": platform.node()})
    gone = process == 10**30  # no process has so high a number
    assert attempt_state(tmp_path, [], events) == ("killed" if gone else "running or killed")


def test_what_is_a_failure() -> None:
    assert failure({}) is None
    assert failure({"error": "KeyboardInterrupt"}) is None
    assert failure({"error": "OSError", "message": "no space"}) == "OSError"


def test_looking_does_not_hinder_a_claim(killed: Path) -> None:
    """A reader locks the owner file for an instant; a claim waits longer than that."""
    ended = threading.Event()
    run = open_run(killed)
    events = AttemptEvents()
    events.add("start", 0, {"process": 1, "host": "elsewhere"})

    def look() -> None:
        while not ended.is_set():
            attempt_state(run.directory, [0], events)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(20):
        Ownership(killed, 0).release()
    ended.set()
    reader.join()
