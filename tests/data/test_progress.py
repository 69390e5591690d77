import fcntl
import os
import pty
import queue
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest

from metronorm.data.progress import progress, waiting


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_without_a_terminal_a_line_comes_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with progress("writing train.bin", 40 << 20, now=clock) as advance:
        for _ in range(40):
            clock.seconds += 1
            advance(1 << 20)
    assert capsys.readouterr().err.splitlines() == [
        "writing train.bin: 25% of 40 MiB",
        "writing train.bin: 50% of 40 MiB",
        "writing train.bin: 75% of 40 MiB",
        "writing train.bin: 100% of 40 MiB",
    ]


def test_a_pass_of_a_few_seconds_has_one_line_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with progress("writing train.bin", 2 << 20, now=clock) as advance:
        for _ in range(2):
            clock.seconds += 1
            advance(1 << 20)
            assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "writing train.bin: 100% of 2 MiB\n"


def test_a_quick_pass_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("writing train.bin", 0, now=Clock()) as advance:
        advance(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", [0, 60])
def test_a_terminal_shows_a_bar_whether_it_reports_its_width_or_not(columns: int) -> None:
    code = (
        "from metronorm.data import progress as module\n"
        "module._BAR_AFTER_SECONDS = 0\n"
        "module._BAR_EVERY_SECONDS = 0.001\n"
        "with module.progress('writing train.bin', 4000) as advance:\n"
        "    advance(4000)\n"
        "with module.waiting('learning 300 tokens'):\n"
        "    module.time.sleep(1)\n"
    )
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code], stderr=there) as process:
        os.close(there)
        shown = b""
        while block := read_if_open(here):
            shown += block
    os.close(here)
    assert process.returncode == 0
    lines = re.split(r"[\r\n]+", shown.decode())
    assert any(line.startswith("writing train.bin: ") and "|" in line for line in lines)
    assert any(line == "learning 300 tokens: 0:00" for line in lines)
    assert max(map(len, lines)) <= (columns or 80)
    assert lines[-1].strip() == ""  # the terminal is left clean


def read_if_open(descriptor: int) -> bytes:
    """What has come; nothing once the other side of a terminal is closed."""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""


def test_lines_come_while_the_work_lasts_and_then_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines: queue.Queue[str] = queue.Queue()
    before = threading.active_count()
    with waiting("learning 300 tokens", every_seconds=0.001, write_line=lines.put):
        for _ in range(3):
            assert lines.get(timeout=60).startswith("learning 300 tokens: ")
    assert threading.active_count() == before
    with waiting("learning 300 tokens"):
        pass
    assert capsys.readouterr().err == ""
