import queue
import sys
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
    with progress("writing train.bin", 40_000_000, now=clock) as advance:
        for _ in range(40):
            clock.seconds += 1
            advance(1_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "writing train.bin: 25% of 40.0 MB",
        "writing train.bin: 50% of 40.0 MB",
        "writing train.bin: 75% of 40.0 MB",
        "writing train.bin: 100% of 40.0 MB",
    ]


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("writing train.bin", 0, now=Clock()) as advance:
        advance(0)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("metronorm.data.progress._BAR_AFTER_SECONDS", 0)
    with progress("writing train.bin", 4000) as advance:
        advance(4000)
    assert "writing train.bin: " in capsys.readouterr().err


def test_while_something_lasts_lines_come_and_then_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines: queue.Queue[str] = queue.Queue()
    before = threading.active_count()
    with waiting("learning 300 tokens", every_seconds=0.001, say=lines.put):
        for _ in range(3):
            assert lines.get(timeout=60).startswith("learning 300 tokens: ")
    assert threading.active_count() == before
    with waiting("learning 300 tokens"):
        pass
    assert capsys.readouterr().err == ""
