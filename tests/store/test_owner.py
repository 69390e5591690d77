"""At any time, one process owns a rank of a run."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from metronorm.clock import Clock
from metronorm.errors import RunError
from metronorm.runs import open_run
from metronorm.store import owner
from metronorm.store.owner import Owner, Ownership, read_owner_file

# records three ticks, prints its process number, and lives until its standard input ends
WRITER = """
import os, sys
from pathlib import Path
from metronorm.clock import Clock

with Clock(Path(sys.argv[1]), resume="resume" in sys.argv, progress=False, stall=None) as clock:
    for _ in clock.ticks(range(3)):
        clock.log(loss=float(os.getpid()))
    if "fork" in sys.argv and not os.fork():
        sys.stdin.read()  # longer than its parent lives
        os._exit(0)
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def writer(run: Path, *how: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WRITER, run, *how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid}\n"
        yield process


def opened(run: Path) -> int:
    """Resume a run for one tick, if that is possible; return the attempt."""
    with Clock(run, resume=True, progress=False, stall=None) as clock:
        list(clock.ticks(range(1)))
    return clock.attempt


def claim_and_release(run: Path) -> None:
    """Own a run for a moment, if that is possible."""
    Ownership(run, 0).release()


def left_by(run: Path, process: Owner) -> Path:
    """The owner file of a run whose process did not close its clock."""
    assert opened(run) >= 0
    path = owner._path(run, 0)
    path.write_bytes(msgspec.json.encode(process))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with Clock(tmp_path / "run", progress=False, stall=None):
        pass
    return tmp_path / "run"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(owner, "TOUCH_SECONDS", 0.1)


def test_a_run_that_is_written_is_not_resumed(run: Path) -> None:
    with writer(run, "resume") as process:
        message = f"which process {process.pid} on {os.uname().nodename} is writing"
        with pytest.raises(RunError, match=f"one process at a time.*{message}.*wait until it ends"):
            opened(run)
        with pytest.raises(RunError, match=message):
            claim_and_release(run)
        assert open_run(run).attempts == [0, 1], "the one that is refused leaves no attempt"
    claim_and_release(run)
    assert opened(run) == 2


@pytest.mark.parametrize("how", ["", "fork"])
def test_after_a_kill_it_is_resumed_at_once(tmp_path: Path, how: str) -> None:
    """Even if a worker that the killed process forked, such as a data loader's, still lives."""
    with writer(tmp_path / "run", how) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert owner._path(tmp_path / "run", 0).read_bytes(), "it had no time to let go"
        claim_and_release(tmp_path / "run")
        assert opened(tmp_path / "run") == 1
    assert [tick["attempt"] for tick in open_run(tmp_path / "run").ticks("full").rows()] == [
        *(0, 1),
        *(0, 0),
    ]


def test_one_of_several_processes_that_resume_at_once_succeeds(run: Path) -> None:
    script = WRITER.replace("sys.stdin.read()", "").replace("with Clock", "input()\nwith Clock")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script.replace("range(3)", "range(10**9)"), run, "resume"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = []
    while len(ended) < 2:
        ended = [process for process in processes if process.poll() is not None]
        threading.Event().wait(0.01)
    (living,) = (process for process in processes if process not in ended)
    for process in ended:
        assert f"process {living.pid} on" in process.communicate()[1]
        assert process.returncode == 1
    living.kill()
    living.communicate()
    assert open_run(run).attempts == [0, 1]


def test_two_clocks_of_one_process(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:
        list(clock.ticks(range(2)))
        with pytest.raises(RunError, match=r"this process is writing.*close the clock"):
            opened(tmp_path / "run")
    assert opened(tmp_path / "run") == 1


def test_each_rank_has_an_owner(run: Path) -> None:
    first = Ownership(run, 0)
    second = Ownership(run, 1)
    for rank in range(2):
        with pytest.raises(RunError, match="this process"):
            Ownership(run, rank)
    with pytest.raises(RunError, match="writes a run as rank=1;"):
        Ownership(run, 1)
    first.release()
    first.release()
    Ownership(run, 0).release()
    second.release()


def test_a_run_that_could_not_be_opened_is_free(run: Path) -> None:
    (run / "events").rename(run / "kept")
    (run / "events").write_text("")
    with pytest.raises(RunError, match="must be writable"):
        opened(run)
    claim_and_release(run)
    (run / "events").unlink()
    opened(run)


def test_another_run_in_the_same_place_has_another_owner(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False, stall=None):
        shutil.rmtree(tmp_path / "run")
        with Clock(tmp_path / "run", progress=False, stall=None):
            pass


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("lives", [True, False])
def test_a_process_on_another_machine_owns_the_rank_while_it_touches_the_file(
    run: Path, lives: bool
) -> None:
    """Its lock may not be seen on this machine."""
    path = left_by(run, Owner(7, "node-7", "another boot"))
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.01):
            os.utime(path)

    other = threading.Thread(target=touch)
    if lives:
        other.start()
        for look in (claim_and_release, opened):
            with pytest.raises(RunError, match="which process 7 on node-7 is writing"):
                look(run)
        ended.set()
        other.join()
    claim_and_release(run)
    assert opened(run) == 2


@pytest.mark.usefixtures("soon")
def test_a_file_system_without_locks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    mine = Ownership(run, 0)
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.01):
            mine.touch()

    other = threading.Thread(target=touch)
    other.start()
    with pytest.raises(RunError, match="this process is writing"):
        claim_and_release(run)
    ended.set()
    other.join()
    claim_and_release(run)  # the first owner touches no more, as if it was killed
    mine.release()
    claim_and_release(run)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("left", [b"", b"garbage", b'{"process": "x"}', b"\0" * 9999])
def test_damaged_owners_own_nothing(run: Path, left: bytes) -> None:
    owner._path(run, 0).write_bytes(left)
    claim_and_release(run)
    assert opened(run) == 1


def test_a_pipe_in_the_place_of_the_owner_is_an_error(run: Path) -> None:
    owner._path(run, 0).unlink()
    os.mkfifo(owner._path(run, 0))
    assert read_owner_file(run, 0) is None
    with pytest.raises(RunError, match=r"must be writable.*(not a regular file|No such device)"):
        opened(run)


def test_a_clock_touches_what_it_owns(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False, stall=None):
        path = owner._path(tmp_path / "run", 0)
        first = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == first:
            threading.Event().wait(0.01)
    assert path.read_bytes() == b""


def test_a_run_is_claimed_before_it_is_opened(run: Path) -> None:
    clock = Clock(run, resume=True, progress=False, stall=None).claim()
    with pytest.raises(RunError, match="this process is writing"):
        opened(run)
    assert open_run(run).attempts == [0], "a claim begins no attempt"
    with clock:
        list(clock.ticks(range(1)))
    assert opened(run) == 2


def test_a_claim_that_is_not_used_is_released(run: Path) -> None:
    Clock(run, resume=True, progress=False, stall=None).claim().close()
    assert opened(run) == 1


def test_a_claim_that_another_machine_has_taken_meanwhile_is_lost(run: Path) -> None:
    clock = Clock(run, resume=True, progress=False, stall=None).claim()
    other = msgspec.json.encode(Owner(1, "elsewhere", "another boot"))
    owner._path(run, 0).write_bytes(other)
    with pytest.raises(RunError, match="process 1 on elsewhere is writing"):
        clock.open()
    assert owner._path(run, 0).read_bytes() == other
    assert open_run(run).attempts == [0]
