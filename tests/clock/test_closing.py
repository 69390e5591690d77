"""Failures while a clock closes never replace an error of the training."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metronorm.clock import Clock
from metronorm.runs import open_run

from ..store.stores import until
from . import records


class TrainingError(Exception):
    """An error of the training."""


class UnspeakableError(TrainingError):
    """An error that fails to make its text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@contextmanager
def ended_by(error: type[Exception], run: Path, **options: Any) -> Iterator[Clock]:
    """A training that ends in an error; the clock must let it pass unchanged."""
    with (  # noqa: PT012
        pytest.raises(error),
        Clock(run, progress=False, stall=None, **options) as clock,
    ):
        yield clock
        raise error


@pytest.mark.usefixtures("shared")
def test_a_folder_that_now_holds_another_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with ended_by(TrainingError, run) as first:
        assert first._recorder is not None
        list(first.ticks(range(3)))
        assert first.flush()
        shutil.rmtree(run)
        with Clock(run, progress=False, stall=None) as second:
            list(first.ticks(range(2)))
            until(lambda: first._recorder and first._recorder.ticks.tape.last_error)
            list(second.ticks(range(1)))
    assert [tick["tick"] for tick in records.ticks(run)] == [1], "nothing of the first"
    assert "records are not in" in caplog.text
    assert "another run is in its place" in caplog.text


def test_failures_while_closing_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = False

    def now() -> int:
        if broken and threading.current_thread() is threading.main_thread():
            raise RuntimeError("a clock that is gone")
        return time.perf_counter_ns()

    with ended_by(TrainingError, tmp_path / "run", now=now) as clock:
        list(clock.ticks(range(3)))
        broken = True
    assert [tick["tick"] for tick in records.ticks(tmp_path / "run")] == [1, 2, 3]
    (message,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "could not be closed as it should" in message.message
    assert message.exc_info
    assert open_run(tmp_path / "run").notices() == []
    with Clock(tmp_path / "run", resume=True, progress=False, stall=None):
        pass  # it has let go of the run


def test_an_error_without_a_text(tmp_path: Path) -> None:
    with ended_by(UnspeakableError, tmp_path / "run") as clock:
        list(clock.ticks(range(1)))
    assert records.events(tmp_path / "run")[-1]["fields"] == {"error": "UnspeakableError"}


def test_a_run_that_was_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ended_by(TrainingError, tmp_path / "run") as clock:
        list(clock.ticks(range(3)))
        assert clock.flush()
        shutil.rmtree(tmp_path / "run")
        list(clock.ticks(range(3)))
    assert "records are not in" in caplog.text
    assert not os.path.lexists(tmp_path / "run")
