import asyncio
import contextlib
import fcntl
import html
import math
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from metronorm.cli import watch
from metronorm.cli.watch_app import WatchApp
from metronorm.clock import Clock
from metronorm.errors import MetronormError
from metronorm.runs.following import Follower
from metronorm.runs.following.snapshot import Snapshot

from ..clock.virtual import VirtualTime

MILLISECOND = 1_000_000
PATIENCE_SECONDS = 120

CHILD = """
import sys
from metronorm.clock import Clock

with Clock(sys.argv[1], config={"ticks": 100}, progress=False) as clock:
    print("begun", flush=True)
    for _ in clock.ticks(sys.stdin):  # a tick for each line
        with clock.phase("forward"):
            clock.log(loss=1.0 / clock.tick, tokens=1_000)
"""

WATCH = "import sys; from metronorm.cli import watch; sys.exit(watch.main(sys.argv[1:]))"


def record(run: Path, ticks: int = 30, *, loss: float | None = None, **options: Any) -> None:
    moment = VirtualTime()
    with Clock(run, progress=False, now=moment, **options) as clock:
        for tick in clock.ticks(range(1, ticks + 1)):
            with clock.phase("forward"):
                moment.pass_(3 * MILLISECOND)
            with clock.phase("backward"):
                moment.pass_(MILLISECOND)
            clock.log(loss=1 / tick if loss is None else loss, tokens=100, grad_norm=2.0)
        clock.event("sample", text="All the world's\na stage\x1b[2J")


def screen(app: WatchApp) -> str:
    """The text on the page."""
    lines: dict[str, str] = {}
    for line, text in re.findall(
        r"<text[^>]*-line-(\d+)\)[^>]*>(.*?)</text>", app.export_screenshot()
    ):
        lines[line] = lines.get(line, "") + html.unescape(text).replace("\xa0", " ")
    return "\n".join(lines.values())


def drive(runs: list[Path], steps: Callable[[WatchApp, Pilot[None]], Awaitable[None]]) -> None:
    """Run a test on the page of these runs."""

    async def session() -> None:
        app = WatchApp([Follower(run) for run in runs])
        async with app.run_test(size=(140, 44)) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(session())


def test_the_page_shows_what_a_run_does(tmp_path: Path) -> None:
    record(tmp_path / "first", config={"ticks": 40})

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        seen = screen(app)
        for part in (
            "first", "finished", "30 / 40", "250", "25,000",  # name, state, tick, ticks/s, tokens/s
            "loss 0.033333", "tick time in ms, 4 ms now", "┤",
            "forward", "75%", "backward", "25%", "█████",
            "peak memory", "iB",  # of this process: MiB, or GiB late in a long run of tests
            "tick 30 sample", "All the world's", r"a stage\x1b[2J", "the attempt starts",
        ):  # fmt: skip
            assert part in seen, part
        assert "arrives after" not in seen

    drive([tmp_path / "first"], steps)


def test_keys(tmp_path: Path) -> None:
    record(tmp_path / "a" / "run")
    record(tmp_path / "b" / "run", 20)

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        shown = []
        for key in ("tab", "right", "left", "shift+tab", "shift+tab"):
            await pilot.press(key)
            shown.append(app.metric)
            assert app.metric in screen(app)
        assert shown == ["tokens", "grad_norm", "tokens", "loss", "grad_norm"]

        assert f"▸ {tmp_path / 'a' / 'run'}" in screen(app), "two of one name: by directory"
        await pilot.press("down")
        assert f"▸ {tmp_path / 'b' / 'run'}" in screen(app)
        assert "tick 20 sample" in screen(app)
        await pilot.press("down", "up", "up")
        assert "tick 30 sample" in screen(app)

        await pilot.press("r")
        assert "arrives after" in screen(app)
        await pilot.press("r")
        assert "arrives after" not in screen(app)

        await pilot.press("space")
        assert "(paused)" in screen(app)
        await pilot.press("space")
        assert "(paused)" not in screen(app)

        await pilot.press("q")
        assert not app.is_running

    drive([tmp_path / "a" / "run", tmp_path / "b" / "run"], steps)


def test_a_run_that_another_process_writes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    feed = child.stdin

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        async def until(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not condition():
                assert time.monotonic() < deadline, screen(app)
                await app.follow()
                await pilot.pause()

        def tick(count: int) -> None:
            feed.write("\n" * count)
            feed.flush()

        assert "nothing to draw yet" in screen(app)
        for done in (1, 5, 50):
            tick(done - app.snapshots[0].tick)
            await until(lambda done=done: app.snapshots[0].tick == done)  # type: ignore[misc]
            assert f"{done} / 100" in screen(app)
            assert "running" in screen(app)
        feed.close()
        await until(lambda: app.snapshots[0].state == "finished")
        assert "finished" in screen(app)

    try:
        drive([run], steps)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_slow_disk_does_not_slow_the_keys(tmp_path: Path) -> None:
    record(tmp_path / "run")
    open_gate = threading.Event()
    open_gate.set()

    class Slow(Follower):
        def read(self) -> Snapshot:
            open_gate.wait(PATIENCE_SECONDS)
            return super().read()

    async def session() -> None:
        app = WatchApp([Slow(tmp_path / "run")])
        async with app.run_test() as pilot:
            await pilot.pause()
            open_gate.clear()
            reading = asyncio.create_task(app.follow())
            try:
                await pilot.press("tab")
                assert app.metric == "tokens"
                assert not reading.done()
            finally:
                open_gate.set()
            await reading

    asyncio.run(session())


def test_the_page_updates_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metronorm.cli.watch_app.PERIOD_SECONDS", 0.01)
    record(tmp_path / "run", 3)

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        record(tmp_path / "run", 4, resume=True)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while app.snapshots[0].attempts < 2:
            assert time.monotonic() < deadline
            await pilot.pause()
        assert "attempt 2" in screen(app)

    drive([tmp_path / "run"], steps)


def test_a_run_that_is_removed_while_it_is_watched_stays_on_the_page(tmp_path: Path) -> None:
    record(tmp_path / "run")
    record(tmp_path / "other")

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        shutil.rmtree(tmp_path / "run")
        await app.follow()
        await pilot.pause()
        assert "a run is a directory with a run.json" in screen(app)
        assert "tick 30 sample" in screen(app)
        assert app.problems[1] == ""
        record(tmp_path / "run", 7)
        await app.follow()
        assert app.problems == ["", ""]
        assert app.snapshots[0].tick == 7

    drive([tmp_path / "run", tmp_path / "other"], steps)


def test_losses_that_are_not_numbers(tmp_path: Path) -> None:
    record(tmp_path / "run", loss=math.nan)

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        assert "loss nan (30 not finite)" in screen(app)
        assert "nothing to draw yet" in screen(app)
        await pilot.press("tab")
        assert "tokens 100" in screen(app)

    drive([tmp_path / "run"], steps)


def test_an_empty_run(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False):

        async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
            await pilot.press("tab", "r", "down")
            assert "running" in screen(app)
            assert "nothing to draw yet" in screen(app)

        drive([tmp_path / "run"], steps)


def test_ranks_have_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        record(tmp_path / "run", 10 - rank)

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        seen = screen(app)
        assert "2 ranks" in seen
        assert "arrives after" in seen
        assert "rank 1 sample" in seen
        await pilot.press("r")
        assert "arrives after" not in screen(app)

    drive([tmp_path / "run"], steps)


@pytest.mark.parametrize("size", [(140, 44), (40, 12), (10, 4), (1, 1)])
def test_a_terminal_of_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    record(tmp_path / "run")

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        await pilot.resize_terminal(*size)
        await pilot.pause()
        assert app.is_running

    drive([tmp_path / "run"], steps)


def test_in_a_real_terminal(tmp_path: Path) -> None:
    record(tmp_path / "shakespeare")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(tmp_path / "shakespeare")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    drawn = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while b"shakespeare" not in drawn or b"backward" not in drawn:
            assert select.select([ours], [], [], deadline - time.monotonic())[0], drawn
            drawn += os.read(ours, 65_536)
        os.write(ours, b"q")
        with contextlib.suppress(OSError):  # its end of the terminal is closed
            while os.read(ours, 65_536):
                pass
        assert child.wait(PATIENCE_SECONDS) == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_without_a_terminal_the_runs_are_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "run")
    assert watch.main(["run", "run"]) == 0
    out = capsys.readouterr().out
    for part in ("finished", "loss 0.033333", "tick time", "forward", "memory", "sample"):
        assert part in out
    assert out.count("finished") == 1, "a run that is named twice"
    assert "\x1b" not in out
    record(tmp_path / "[red]other", 3)
    assert watch.main(["run", "[red]other"]) == 0
    assert "[red]other" in capsys.readouterr().out


def test_the_rate_has_the_unit_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moment = VirtualTime()
    with Clock(tmp_path / "run", progress=False, now=moment) as clock:
        for _ in clock.ticks(range(3)):
            moment.pass_(4 * MILLISECOND)
            clock.log(images=64)
    record(tmp_path / "other", 3)
    for paths, words in (
        (["run"], ["images/s", "16,000"]),
        (["run", "other"], ["counted/s", "16,000 images"]),
    ):
        assert watch.main([str(tmp_path / path) for path in paths]) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)


def test_events_are_lines_in_plain_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Clock(tmp_path / "run", progress=False, config={"ticks": 2}) as clock:
        clock.event("machine", precision="bf16", allocator="keep")
        clock.event("phone\ncall", who={"name": "Romeo"})
        clock.event("stop", reason="no better loss")
    assert watch.main([str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    for words in (
        "tick 0 runs with precision bf16, allocator keep",
        "phone call: who.name Romeo",
        "tick 0 stopped: no better loss",
    ):
        assert re.search(rf"{words} *\n", out)
    assert "{" not in out


def test_waiting_for_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            record(tmp_path / "run", 2)

    watch.wait_for([tmp_path / "run"], sleep)
    assert len(waits) == 3
    assert "waiting for" in capsys.readouterr().err
    assert watch.main(["--wait", str(tmp_path / "run")]) == 0
    assert "waiting" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [([], "watch needs a run"), (["none"], "none, which does not exist"), (["--fast"], "--fast")],
)
def test_mistakes(
    argv: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetronormError, match=says):
        watch.main(argv)


def test_a_terminal_without_a_cursor_gets_no_page(tmp_path: Path) -> None:
    record(tmp_path / "run")
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(tmp_path / "run")],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"TERM": "dumb", "COLUMNS": "80"},
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert done.returncode == 0
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # its end of the terminal is closed
        while piece := os.read(ours, 65_536):
            drawn += piece
    os.close(ours)
    assert b"finished" in drawn
    assert b"\x1b[?1049h" not in drawn, "the other screen"


def test_events_have_room_in_a_usual_terminal(tmp_path: Path) -> None:
    record(tmp_path / "run")

    async def steps(app: WatchApp, pilot: Pilot[None]) -> None:
        for columns in (80, 100, 140):
            await pilot.resize_terminal(columns, 24)
            await pilot.pause()
            await pilot.pause()
            assert app.query_one("#events").content_size.width >= 20
            assert "sample: All" in screen(app)

    drive([tmp_path / "run"], steps)
