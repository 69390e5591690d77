"""The working directory may change while a clock records; the run stays in its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError
from metronorm.runs import diagnose, open_run
from metronorm.store import writer

from ..store.stores import until


def record(run: Path | str, ticks: int = 3) -> None:
    with Clock(run, progress=False, stall=None) as clock:
        list(clock.ticks(range(ticks)))


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in open_run(run).ticks().rows()]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two working directories; each has, or gets, a run with the same name."""
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "b")
    record("run", 1)
    monkeypatch.chdir(tmp_path / "a")
    return tmp_path / "a", tmp_path / "b"


def test_ticks_go_into_the_run_that_was_named(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = folders
    with Clock("run", progress=False, stall=None) as clock:
        assert clock.directory == here / "run"
        for tick in clock.ticks(range(9)):
            if tick in (3, 6):
                assert clock.flush()
                monkeypatch.chdir(there if tick == 3 else "/")
            clock.log(loss=tick)
        assert diagnose(open_run(clock.directory)) == []
    assert losses(here / "run") == list(range(9))
    assert len(open_run(there / "run").ticks().rows()) == 1
    for run in (here / "run", there / "run"):
        assert open_run(run).notices() == []
        assert not list(run.rglob("_*")), "all is sealed"


def test_the_run_is_where_the_clock_was_made(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = folders
    clock = Clock("run", progress=False, stall=None)
    monkeypatch.chdir(there)
    with clock:
        list(clock.ticks(range(2)))
    assert len(open_run(here / "run").ticks().rows()) == 2
    assert open_run(here / "run").info.name == "run"


def test_stretches_are_sealed_where_they_are(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = folders
    monkeypatch.setattr(writer, "STRETCH_BYTES", 20_000)
    with Clock("run", progress=False, stall=None) as clock:
        monkeypatch.chdir(there)
        for tick in clock.ticks(range(1000)):
            clock.log(loss=tick)
        until(lambda: list((here / "run" / "ticks").rglob("part-*.parquet")))
        assert clock.flush()
    assert losses(here / "run") == list(range(1000))


MOVING = """
import os, sys
from metronorm.clock import Clock

os.makedirs("a")
with Clock("run", progress=False, stall=None) as clock:
    os.chdir("a")
    for tick in clock.ticks(range(1000)):
        clock.log(loss=tick)
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_leaves_is_found(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MOVING], cwd=tmp_path, check=False)
    assert losses(tmp_path / "run") == list(range(1000))
    assert os.listdir(tmp_path / "a") == []  # noqa: PTH208


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_an_invalid_directory_name_creates_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"a run needs a directory; got .*try: '.' for this one"):
        Clock(name, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [b"r\xff", rb"a\b[1]"])
def test_a_directory_whose_ticks_could_not_be_sealed_is_refused_at_once(
    name: bytes, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"a path that DuckDB reads .*try: rename the folder"):
        Clock(tmp_path / os.fsdecode(name), progress=False)
    assert list(tmp_path.iterdir()) == []
