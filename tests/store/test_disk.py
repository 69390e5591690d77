"""The loop goes on when the disk is full, or a folder is moved or removed."""

import errno
import logging
import os
import shutil
from pathlib import Path

import pytest

from metronorm.clock import Clock
from metronorm.clock import background_threads as watcher
from metronorm.runs import open_run
from metronorm.store.sealing import seal_run

from ..clock import records
from ..full_disk import fill, small_disk
from .stores import until

TICKS = 3000  # the lines of so many ticks do not fit into the ring
NAMES = [f"metric_{number}" for number in range(20)]


pytestmark = pytest.mark.usefixtures("small_rings")


def fill_up(clock: Clock, disk: Path) -> Path:
    """Record ticks, fill the disk, record more; return the file that fills it."""
    assert clock._recorder is not None
    ticks = clock._recorder.ticks
    list(clock.ticks(range(50)))
    until(lambda: not ticks.ring.filled)
    ballast = fill(disk)
    list(clock.ticks(range(100)))
    until(lambda: ticks.tape.last_error is not None)
    return ballast


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with Clock(disk / "run", progress=False, stall=None) as clock:
            ballast = fill_up(clock, disk)
            assert clock._recorder is not None
            ticks = clock._recorder.ticks
            list(clock.ticks(range(10)))
            assert ticks.ring.filled
            ballast.unlink()
        assert clock.dropped == 0
        assert caplog.text == ""
        run = open_run(disk / "run")
        assert [row["tick"] for row in run.ticks().rows()] == list(range(1, 161))
        assert run.notices() == []


def test_ticks_that_do_not_fit_into_the_ring_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with Clock(disk / "run", progress=False, stall=None) as clock:
            ballast = fill_up(clock, disk)
            assert clock._recorder is not None
            ticks = clock._recorder.ticks
            list(clock.ticks(range(TICKS)))
            ballast.unlink()
            until(lambda: not ticks.ring.filled)
            list(clock.ticks(range(10)))
        run = open_run(disk / "run")
        kept = [row["tick"] for row in run.ticks().rows()]
        missing = sorted(set(range(1, TICKS + 161)) - set(kept))
        assert len(missing) == clock.dropped > 0
        assert kept[-10:] == list(range(TICKS + 151, TICKS + 161))
        (dropped,) = [one for one in records.events(disk / "run") if one["event"] == "dropped"]
        assert dropped["fields"] == {
            "kind": "ticks",
            "records": clock.dropped,
            "first_tick": missing[0],
            "last_tick": missing[-1],
            "error": os.strerror(errno.ENOSPC),
        }
        assert caplog.record_tuples == [
            (
                "metronorm",
                logging.WARNING,
                f"{clock.dropped} records could not be written to {disk / 'run'} "
                "(the disk does not answer); training went on without them",
            )
        ]


def test_lines_that_wait_when_the_clock_closes_are_sealed_later(
    tmp_path: Path, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = disk / "run"
        with Clock(run, progress=False, stall=None) as clock:
            list(clock.ticks(range(50)))
            ballast = fill(disk)
            list(clock.ticks(range(100)))
        assert clock.dropped == 0
        assert "No space left on device" in caplog.text
        assert "metronorm seal writes them there as long as this machine runs" in caplog.text
        expected = list(range(1, 151))
        assert [row["tick"] for row in open_run(run).ticks().rows()] == expected
        with pytest.raises(OSError, match="No space left"):
            seal_run(run)
        assert [row["tick"] for row in open_run(run).ticks().rows()] == expected
        ballast.unlink()
        assert seal_run(run) == 3
        assert list(shared.iterdir()) == []
        assert list(run.rglob("_*")) == []
        assert [row["tick"] for row in open_run(run).ticks().rows()] == expected
        assert records.events(run)[-1]["event"] == "end"


def test_lines_that_wait_in_memory_that_is_not_shared_are_lost(
    tmp_path: Path, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared.rmdir()
    with small_disk(tmp_path / "disk") as disk:
        with Clock(disk / "run", progress=False, stall=None) as clock:
            assert clock._recorder is not None
            list(clock.ticks(range(50)))
            assert clock.flush()
            fill(disk)
            list(clock.ticks(range(100)))
        kept = [row["tick"] for row in open_run(disk / "run").ticks().rows()]
        assert clock.dropped >= 150 - len(kept) > 0
    assert f"{clock.dropped} records could not be written" in caplog.text
    assert "metronorm seal" not in caplog.text


def test_room_for_lines_but_none_to_seal_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing succeeds, as lines can be sealed at any time."""
    monkeypatch.setattr(watcher, "PERIOD_SECONDS", 3600.0)
    with small_disk(tmp_path / "disk") as disk:
        with Clock(disk / "run", progress=False, stall=None) as clock:
            assert clock._recorder is not None
            for _ in clock.ticks(range(400)):
                clock.log(**{name: hash((name, clock.tick)) / 2**63 for name in NAMES})
            channels = clock._recorder._channels
            until(lambda: channels["resources"].tape.size > 0)
            assert clock.flush()
            fill(disk)
            for kind in ("events", "resources"):
                assert channels[kind].tape.size < 2000, "the last lines find room in the page"
        run = open_run(disk / "run")
        assert [row["tick"] for row in run.ticks().rows()] == list(range(1, 401))
        assert list((disk / "run").rglob("_part-00000.jsonl"))


def test_the_folder_is_moved_away_and_back(tmp_path: Path) -> None:
    run, aside = tmp_path / "run", tmp_path / "aside"
    with Clock(run, progress=False, stall=None) as clock:
        assert clock._recorder is not None
        ticks = clock._recorder.ticks
        list(clock.ticks(range(10)))
        until(lambda: not ticks.ring.filled)
        run.rename(aside)
        list(clock.ticks(range(10)))
        until(lambda: ticks.tape.last_error is not None)
        list(clock.ticks(range(10)))
        aside.rename(run)
        list(clock.ticks(range(10)))
    assert clock.dropped == 0
    assert [row["tick"] for row in open_run(run).ticks().rows()] == list(range(1, 41))


def test_the_folder_is_deleted_and_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Clock(run, progress=False, stall=None) as clock:
        assert clock._recorder is not None
        ticks = clock._recorder.ticks
        list(clock.ticks(range(10)))
        until(lambda: not ticks.ring.filled)
        info = (run / "run.json").read_bytes()
        shutil.rmtree(run)
        list(clock.ticks(range(10)))
        until(lambda: ticks.tape.last_error is not None)
        list(clock.ticks(range(10)))
        for kind in ("ticks", "events", "resources"):
            (run / kind / "attempt=0" / "rank=0").mkdir(parents=True)
        (run / "run.json").write_bytes(info)
    assert clock.dropped == 0
    assert [row["tick"] for row in open_run(run).ticks().rows()] == list(range(11, 31))


def test_the_folder_is_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Clock(tmp_path / "run", progress=False, stall=None) as clock:
        list(clock.ticks(range(10)))
        shutil.rmtree(tmp_path / "run")
        list(clock.ticks(range(10)))
    assert clock.tick == 20
    assert "No such file or directory" in caplog.text
    assert not (tmp_path / "run").exists()
