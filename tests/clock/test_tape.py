import logging
import os
from pathlib import Path

import pytest

from metronorm.clock import Clock, open_run
from metronorm.clock.tape import LIVE, Tape, encode, ends_torn

from ..full_disk import fill, small_disk


def test_one_line_and_one_write_per_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    write = os.write

    def counted(file: int, data: bytes) -> int:
        writes.append(bytes(data))
        return write(file, data)

    with Clock(tmp_path / "run", progress=False) as clock:
        loop = clock.ticks(range(3))
        next(loop)
        monkeypatch.setattr(os, "write", counted)
        list(loop)
        monkeypatch.undo()
    ticks = [data for data in writes if b'"wall_ns"' in data]
    assert len(ticks) == 3
    assert all(data.count(b"\n") == 1 and data.endswith(b"\n") for data in ticks)


def test_a_tape_is_appended_to(tmp_path: Path) -> None:
    for number in range(2):
        tape = Tape(tmp_path / LIVE)
        assert tape.write(encode({"number": number}))
        tape.close()
        tape.close()
    assert (tmp_path / LIVE).read_text() == '{"number":0}\n{"number":1}\n'


def test_a_torn_end_is_seen(tmp_path: Path) -> None:
    path = tmp_path / LIVE
    for content, torn in ((b"", False), (b"{}\n", False), (b"{}\n{", True)):
        path.write_bytes(content)
        assert ends_torn(path) is torn


def test_a_full_disk_takes_whole_lines_or_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        tape = Tape(disk / LIVE)
        assert tape.write(encode({"number": 0}))
        ballast = fill(disk)
        long = "x" * 5_000  # more than what is left of the tape's page: a part of it fits
        assert not tape.write(encode({"number": 1, "long": long}))
        assert not tape.write(encode({"number": 2, "long": long}))
        assert tape.dropped == 2
        ballast.unlink()
        assert tape.write(encode({"number": 3}))
        tape.close()
        assert (disk / LIVE).read_text() == '{"number":0}\n{"number":3}\n'


def test_training_goes_on_without_room_and_says_what_was_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        done = 0
        with Clock(disk / "run", progress=False) as clock:
            ballast = None
            for tick in clock.ticks(range(100)):
                if tick == 50:
                    ballast = fill(disk)
                if tick == 90:
                    assert ballast is not None
                    ballast.unlink()
                done += 1
        assert done == 100
        kept = [row["tick"] for row in open_run(disk / "run").ticks().rows()]
        # a page that was begun still takes lines; after that none, until there is room again
        assert kept[:50] == list(range(1, 51))
        assert kept[-10:] == list(range(91, 101))
        assert clock.dropped == 100 - len(kept) > 0
        assert open_run(disk / "run").notices() == []
    assert caplog.record_tuples == [
        (
            "metronorm",
            logging.WARNING,
            f"{clock.dropped} records could not be written to {disk / 'run'} "
            "(No space left on device); training went on without them",
        )
    ]
