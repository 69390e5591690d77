"""The loop goes on whatever the disk does, and lines in memory are on the tape in the end."""

import contextlib
import json
import os
import signal
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.store import writer
from metronorm.store.ring import read_ring
from metronorm.store.spawn import is_running
from metronorm.store.tape import LIVE, Tape, encode
from metronorm.store.writer import Channel, Writer

from ..clock import records
from ..conftest import SMALL
from .stores import until

TICKS = 3000  # the lines of so many ticks do not fit into the ring and a pipe
BEFORE = 150  # with metrics of all these names, these just fit
NAMES = [f"metric_{number}" for number in range(20)]


pytestmark = pytest.mark.usefixtures("small_rings")


class Hung:
    """A disk that takes 64 KiB and then hangs: the tape of a clock is a pipe that nobody reads."""

    def __init__(self, clock: Clock, kind: str) -> None:
        assert clock._recorder is not None
        self.channel = clock._recorder._channels[kind]
        self.thread = clock._recorder._writer._thread
        path = self.channel.tape.folder / LIVE
        pipe = path.with_name("pipe")
        os.mkfifo(pipe)
        self.pipe = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.open_end = os.open(pipe, os.O_WRONLY)
        until(lambda: not self.channel.ring.filled)  # then the writer does not use the tape
        os.dup2(self.open_end, self.channel.tape._file, inheritable=False)
        pipe.rename(path)
        self.came = b""

    def holds(self) -> bool:
        """Whether the writer's thread is inside a write to the pipe."""
        assert self.thread.ident is not None
        frame = sys._current_frames().get(self.thread.ident)
        inside = frame is not None and frame.f_code is Tape.append.__code__
        return inside and frame.f_locals["self"] is self.channel.tape

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Let the disk take everything while the block runs."""
        os.set_blocking(self.pipe, True)

        def read() -> None:
            while data := os.read(self.pipe, 1 << 16):
                self.came += data

        reader = threading.Thread(target=read)
        reader.start()
        yield
        os.close(self.open_end)
        reader.join()
        os.close(self.pipe)

    def numbers(self) -> list[int]:
        """The numbers of the ticks that reached the disk."""
        return [json.loads(line)["tick"] for line in self.came.splitlines()]


def hanging(clock: Clock, kind: str = "ticks") -> Hung:
    """A tape that hangs, with the writer inside a write."""
    hung = Hung(clock, kind)
    if kind == "events":
        clock.event("large", text="x" * (100 << 10))
    else:
        for _ in clock.ticks(range(BEFORE)):
            clock.log(**dict.fromkeys(NAMES, 0.123456789))
    until(hung.holds)
    return hung


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:
        yield clock


def test_the_loop_goes_on_while_the_disk_hangs(clock: Clock) -> None:
    hung = hanging(clock)
    done = 0
    for _ in clock.ticks(range(TICKS)):
        clock.log(loss=1.0)
        done += 1
    assert done == TICKS
    assert hung.holds(), "not one write had returned"
    assert hung.channel.ring.filled <= SMALL
    dropped = clock.dropped
    assert 0 < dropped < TICKS
    with hung.answering():
        clock.close()
    missing = sorted(set(range(1, BEFORE + TICKS + 1)) - set(hung.numbers()))
    assert hung.numbers() == sorted(hung.numbers()), "in order, each once"
    assert len(missing) == dropped == clock.dropped
    (dropped_event,) = [one for one in records.events(clock.directory) if one["event"] == "dropped"]
    assert dropped_event["fields"] == {
        "kind": "ticks",
        "records": dropped,
        "first_tick": missing[0],
        "last_tick": missing[-1],
        "error": "the disk does not answer",
    }


def test_memory_is_bounded_while_the_disk_hangs(clock: Clock) -> None:
    hung = hanging(clock)
    list(clock.ticks(range(TICKS)))  # the ring is full from now on
    tracemalloc.start()
    list(clock.ticks(range(10)))
    before, _ = tracemalloc.get_traced_memory()
    for _ in clock.ticks(range(TICKS)):
        clock.log(loss=1.0)
        clock.event("something")
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert hung.holds()
    assert after - before < 64 << 10
    with hung.answering():
        clock.close()


def test_the_training_thread_never_writes_to_the_disk(clock: Clock) -> None:
    """The writer hangs at one tape while the ring of another tape is full."""
    events = hanging(clock, "events")
    ticks = Hung(clock, "ticks")
    for _ in clock.ticks(range(TICKS)):
        clock.log(**dict.fromkeys(NAMES, 0.123456789))
    assert events.holds()
    assert clock.dropped > 0
    with events.answering(), ticks.answering():
        clock.close()
    assert len(ticks.numbers()) + clock.dropped == TICKS
    assert b'"large"' in events.came
    assert b'"dropped"' in events.came


def test_closing_does_not_wait_for_a_disk_that_hangs(
    clock: Clock,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.1)
    hung = hanging(clock)
    list(clock.ticks(range(20)))
    clock.close()
    assert hung.holds()
    (path,) = shared.glob("*-ticks-0-0")
    last = read_ring(path, hung.channel.tape.folder).splitlines()[-1]
    assert json.loads(last)["tick"] == BEFORE + 20
    assert "records are not in" in caplog.text
    assert "the disk does not answer" in caplog.text
    with hung.answering():
        hung.thread.join()
        assert clock._recorder is not None
        for channel in clock._recorder._channels.values():
            channel.close()
    assert hung.numbers() == list(range(1, BEFORE + 21)), "it came back before the process ended"


def test_a_full_ring_waits_for_a_disk_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_HANG_SECONDS", 60.0)
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:
        list(clock.ticks(range(TICKS)))
    assert clock.dropped == 0
    rows = open_run(tmp_path / "run").ticks().rows()
    assert [row["tick"] for row in rows] == list(range(1, TICKS + 1))


def test_events_of_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_HANG_SECONDS", 60.0)
    monkeypatch.setitem(writer.CAPACITIES, "events", 4 << 10)
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:

        def record(thread: int) -> None:
            for number in range(100):
                clock.event("number", thread=thread, number=number, text="x" * 100)

        threads = [threading.Thread(target=record, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert clock.dropped == 0
    found = [one["fields"] for one in records.events(tmp_path / "run") if one["event"] == "number"]
    for thread in range(8):
        assert [one["number"] for one in found if one["thread"] == thread] == list(range(100))


def test_a_line_that_is_longer_than_the_ring(clock: Clock) -> None:
    long = "x" * (writer.CAPACITIES["events"] + 1)
    clock.event("long", text=long)
    clock.event("short")
    clock.close()
    fields = {one["event"]: one["fields"] for one in records.events(clock.directory)}
    assert fields["long"] == {"text": long}
    assert fields["short"] == {}
    assert clock.dropped == 0


def test_one_line_that_is_too_long_for_the_ring_waits(clock: Clock) -> None:
    hung = hanging(clock, "events")
    long = "x" * (writer.CAPACITIES["events"] + 1)
    for number in range(3):
        clock.event(f"long {number}", text=long)
    assert hung.holds()
    assert clock.dropped == 2
    with hung.answering():
        clock.close()
    assert b"long 0" in hung.came
    assert b"long 1" not in hung.came
    assert b'"dropped"' in hung.came


def test_lines_of_the_writer_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    line = encode({"number": 0, "text": "x" * 400})
    channel = Channel(tmp_path, None, 1000)
    reported: list[Any] = []

    def report(kind: str, loss: writer.Loss) -> None:
        reported.append((kind, loss))
        for _ in range(10):
            writing.put_or_drop(channel, line, 7)

    writing = Writer({"events": channel}, report)
    channel.drop(5)
    channel.drop(6)
    assert writing.close() == 0
    assert reported == [("events", writer.Loss(2, 5, 6, "the disk does not answer"))]
    assert (tmp_path / LIVE).read_bytes() == line * 10


def test_closing_does_not_wait_for_the_process_that_seals(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = tmp_path / "endless"
    endless.write_text(f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    endless.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(endless))
    monkeypatch.setattr(writer, "STRETCH_BYTES", 1000)
    assert clock._recorder is not None
    writing = clock._recorder._writer
    list(clock.ticks(range(100)))
    until(lambda: writing._sealing is not None)
    clock.close()
    assert writing._sealing is not None
    assert is_running(writing._sealing)
    os.kill(writing._sealing, signal.SIGKILL)
    until(lambda: not is_running(writing._sealing))
    rows = open_run(clock.directory).ticks().rows()
    assert [row["tick"] for row in rows] == list(range(1, 101))
    assert list(clock.directory.rglob("_*")) == [], "sealed by the clock itself"
