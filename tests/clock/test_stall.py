import json
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from metronorm.clock import StallWatch, stall
from metronorm.clock.stall import Stalls, notify, stacks

from .virtual import VirtualTime

SECOND = 10**9


class Watched:
    """A training that the watch looks at once a second."""

    def __init__(self, watch: StallWatch) -> None:
        self.time = VirtualTime()
        self.stalls = Stalls(watch, self.time())
        self.tick = 0

    def run(self, ticks: int, seconds: int = 1) -> list[float]:
        """Run ticks of this many seconds; the stalls that were reported."""
        told = []
        for _ in range(ticks):
            told += self.wait(seconds - 1)
            self.tick += 1
            told += self.wait(1)
        return told

    def wait(self, seconds: int) -> list[float]:
        """Let time pass without a tick."""
        told = []
        for _ in range(seconds):
            self.time.pass_(SECOND)
            found = self.stalls.look(self.tick, self.time())
            if found is not None:
                told.append(found)
        return told


def test_a_stall_is_reported_once() -> None:
    watched = Watched(StallWatch(times=5, at_least_seconds=2))
    assert watched.run(20) == []
    assert watched.wait(5) == []
    assert watched.wait(1) == [6.0]
    assert watched.wait(10_000) == []


def test_a_stall_after_a_recovery_is_reported_too() -> None:
    watched = Watched(StallWatch(times=5, at_least_seconds=2))
    for _ in range(3):
        assert watched.run(100) == []
        assert watched.wait(200) == [6.0]


def test_a_stall_lasts_some_seconds_however_short_ticks_are() -> None:
    watched = Watched(StallWatch(times=5, at_least_seconds=60))
    for _ in range(20):
        watched.tick += 100  # in each second
        assert watched.wait(1) == []
    assert watched.wait(60) == []
    assert watched.wait(1) == [61.0]


def test_many_slow_ticks_are_no_stall() -> None:
    watched = Watched(StallWatch(times=5, at_least_seconds=1))
    assert watched.run(20, seconds=40) == []
    assert watched.wait(4 * 40) == []
    assert len(watched.wait(2 * 40)) == 1


def test_ticks_with_an_evaluation_in_them_are_usual() -> None:
    watched = Watched(StallWatch(times=20, at_least_seconds=10))
    assert len(watched.run(20) + watched.run(1, seconds=30)) <= 1  # who should have known
    for _ in range(30):
        assert watched.run(9) == []
        assert watched.run(1, seconds=30) == []
    assert len(watched.wait(30 * 20 + 1)) == 1


def test_loading_and_the_first_ticks_are_no_stall_and_not_what_is_usual() -> None:
    watched = Watched(StallWatch(times=5, at_least_seconds=2))
    assert watched.wait(3_600) == []
    assert watched.run(1, seconds=600) == [], "compiled"
    assert watched.run(2, seconds=60) == []
    assert watched.run(100) == []
    assert watched.wait(6) == [6.0]


def test_the_jump_of_a_resumed_run_is_no_tick() -> None:
    watched = Watched(StallWatch(times=5, at_least_seconds=2))
    assert watched.wait(10) == []
    watched.tick = 10_000
    assert watched.wait(600) == [], "the first tick is being compiled"
    assert watched.run(100) == []
    assert watched.wait(6) != []
    watched.tick = 5  # gone back in a loop of its own
    assert watched.wait(1) == []


def blocked_in_a_function_of_its_own(waiting: threading.Event, done: threading.Event) -> None:
    waiting.set()
    done.wait(60)


def test_stacks_say_where_every_thread_is(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, done = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=blocked_in_a_function_of_its_own, args=(waiting, done), name="the-loader"
    )
    thread.start()
    assert waiting.wait(60)
    with monkeypatch.context() as context:
        # the disk may be what everybody waits for
        context.setattr("builtins.open", lambda *_: pytest.fail("a file was opened"))
        text = stacks()
    done.set()
    thread.join()
    main, loader = (
        text.partition(f"Thread {name}:\n")[2].partition("Thread ")[0]
        for name in (threading.current_thread().name, "the-loader")
    )
    assert "in test_stacks_say_where_every_thread_is" in main
    assert __file__ in main
    assert "in blocked_in_a_function_of_its_own" in loader
    assert "test_stacks_say" not in loader


# --- telling somebody -----------------------------------------------------------------------------

EVENT = {"event": "stall", "tick": 7, "time_ns": 1, "fields": {"seconds": 61.0, "stacks": "É\n"}}
KEEP = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


class Hook(HTTPServer):
    """Takes a POST request and answers with a status."""

    def __init__(self) -> None:
        self.status = 200
        self.posted: list[tuple[str, str | None, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}/stalls?run=mine"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_command_and_a_webhook_get_the_event(
    tmp_path: Path, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    command = (sys.executable, "-c", KEEP, str(tmp_path / "event"))
    notify(StallWatch(command=command, webhook=hook.address), EVENT)
    assert json.loads((tmp_path / "event").read_bytes()) == EVENT
    assert hook.posted == [("/stalls?run=mine", "application/json", EVENT)]
    notify(StallWatch(), EVENT)
    assert len(hook.posted) == 1
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/no/such/program",), "No such file"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "non-zero exit status 3"),
        ((sys.executable, "a\0b"), "null byte"),
        ((sys.executable, "-c", "import signal; signal.pause()"), "timed out"),
    ],
)
def test_a_command_that_fails_is_logged_and_the_webhook_called(
    hook: Hook,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    why: str,
) -> None:
    if why == "timed out":
        monkeypatch.setattr(stall, "_TIMEOUT_SECONDS", 0.2)
    notify(StallWatch(command=command, webhook=hook.address if why != "timed out" else ""), EVENT)
    assert len(hook.posted) == (why != "timed out")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the stall command failed" in caplog.text
    assert why in caplog.text


@pytest.mark.parametrize("how", ["status", "nobody", "nonsense", "no HTTP"])
def test_a_webhook_that_fails_is_logged(
    hook: Hook, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    hook.status = 500
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        thread = threading.Thread(target=answer_nonsense, args=(server,))
        if how == "no HTTP":
            thread.start()
        else:
            server.close()
        notify(
            StallWatch(
                webhook={"status": hook.address, "nonsense": "not an address"}.get(how, address)
            ),
            EVENT,
        )
        if how == "no HTTP":
            thread.join()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the stall webhook failed" in caplog.text


def answer_nonsense(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
