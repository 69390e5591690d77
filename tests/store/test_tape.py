import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.errors import RunError
from metronorm.store.run_directory import read_run_info, tape_folder
from metronorm.store.tape import LIVE, NEXT, Tape, encode, is_written, next_part
from metronorm.store.writer import Channel

from ..full_disk import fill, small_disk
from .stores import new_run

HELD = """
import sys
from pathlib import Path
from metronorm.store.tape import Tape

tape = Tape(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Start another process that has the tape open."""
    child = subprocess.Popen(
        [sys.executable, "-c", HELD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_lines_are_appended_whatever_pieces_they_come_in(tmp_path: Path) -> None:
    whole = b"".join(encode({"number": number}) for number in range(20))
    for cut in range(0, len(whole), 7):
        tape = Tape(tmp_path)
        assert tape.append(whole[:cut], memoryview(whole)[cut:]) == len(whole)
        assert tape.append() == tape.append(b"") == 0
        assert tape.size == len((tmp_path / LIVE).read_bytes())
        tape.close()
        tape.close()
    assert (tmp_path / LIVE).read_bytes() == whole * len(range(0, len(whole), 7))


def test_a_value_that_json_cannot_hold_becomes_text() -> None:
    assert encode({"path": Path("a/b"), "number": 1}) == b'{"path":"a/b","number":1}\n'


def test_a_full_disk_takes_whole_lines_or_none(tmp_path: Path) -> None:
    lines = [encode({"number": number, "long": "x" * 700}) for number in range(100)]
    with small_disk(tmp_path / "disk") as disk:
        tape = Tape(disk)
        assert tape.append(lines[0]) == len(lines[0])
        ballast = fill(disk)
        # the rest of the last page takes some lines, and a part of the next line
        taken = tape.append(*lines[1:20], *lines[20:])
        kept = lines[0] + b"".join(lines[1:])[:taken]
        assert 0 < taken < 4096
        assert kept.endswith(b"\n")
        assert (disk / LIVE).read_bytes() == kept
        assert tape.last_error is not None
        assert tape.last_error.strerror == "No space left on device"
        assert tape.append(lines[50]) == 0
        ballast.unlink()
        rest = b"".join(lines[1:])[taken:]
        assert tape.append(rest) == len(rest)
        assert tape.last_error is None
        tape.close()
        assert (disk / LIVE).read_bytes() == b"".join(lines)


def test_a_torn_line_that_cannot_be_cut_off_gets_its_end(tmp_path: Path) -> None:
    """On a file that cannot be cut: a pipe."""
    tape = Tape(tmp_path)
    (tmp_path / LIVE).unlink()
    os.mkfifo(tmp_path / LIVE)
    pipe = os.open(tmp_path / LIVE, os.O_RDONLY | os.O_NONBLOCK)
    end = os.open(tmp_path / LIVE, os.O_WRONLY)
    os.dup2(end, tape._file)
    os.close(end)
    os.set_blocking(tape._file, False)
    long = b"x" * 99_999 + b"\n"  # more than a pipe holds
    assert tape.append(b"one\n", long) == 4
    assert isinstance(tape.last_error, BlockingIOError)
    assert tape.append(b"two\n") == 0
    seen = os.read(pipe, 1 << 20)
    assert seen[:5] == b"one\nx"
    assert tape.append(b"two\n", b"three\n") == 10
    assert tape.append(b"four\n") == 5
    assert os.read(pipe, 1 << 20) == b"\ntwo\nthree\nfour\n"
    tape.close()
    os.close(pipe)


def test_rotate(tmp_path: Path) -> None:
    (tmp_path / NEXT).touch()  # a process was killed in the middle
    (tmp_path / "part-00004.parquet").touch()
    (tmp_path / "part-00008 (copy).parquet").touch()
    (tmp_path / "my-part-x").touch()
    assert next_part(tmp_path) == 5
    tape = Tape(tmp_path)
    for number in range(3):
        tape.append(encode({"number": number}))
        tape.rotate()
        assert tape.size == 0
    tape.append(b"live\n")
    tape.close()
    assert [(tmp_path / f"_part-0000{part}.jsonl").read_text() for part in (5, 6, 7)] == [
        '{"number":0}\n',
        '{"number":1}\n',
        '{"number":2}\n',
    ]
    assert (tmp_path / LIVE).read_text() == "live\n"
    assert not (tmp_path / NEXT).exists()


def test_a_tape_goes_on_when_it_cannot_be_rotated(tmp_path: Path) -> None:
    tape = Tape(tmp_path)
    tape.append(b"one\n")
    (tmp_path / LIVE).rename(tmp_path / "aside")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            tape.rotate()
    assert tape.append(b"two\n") == 4
    tape.rotate()
    assert tape.append(b"three\n") == 6
    tape.close()
    assert (tmp_path / "_part-00000.jsonl").read_text() == "two\n"
    assert (tmp_path / LIVE).read_text() == "three\n"


def test_the_folder_is_removed_and_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "tape"
    folder.mkdir()
    tape = Tape(folder)
    assert tape.append(b"one\n") == 4
    shutil.rmtree(folder)
    for _ in range(2):
        assert tape.append(b"two\n") == 0
        assert isinstance(tape.last_error, FileNotFoundError)
        assert tape.size == 0
    folder.mkdir()
    assert tape.append(b"two\n") == 4
    assert tape.last_error is None
    assert (folder / LIVE).read_text() == "two\n"
    shutil.rmtree(folder)
    folder.mkdir()
    assert tape.append(b"three\n") == 6, "not into the file that was removed"
    assert (folder / LIVE).read_text() == "three\n"
    tape.close()


def test_one_process_writes_a_tape(tmp_path: Path) -> None:
    with holder(tmp_path) as child:
        with pytest.raises(RunError, match="RANK of its own"):
            Tape(tmp_path)
        child.kill()
    Tape(tmp_path).close()


def test_another_run_in_its_place_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tape"
    folder.mkdir()
    tape = Tape(folder)
    folder.rename(tmp_path / "aside")
    folder.mkdir()
    with holder(folder) as child:
        assert tape.append(b"one\n") == 0
        assert isinstance(tape.last_error, FileNotFoundError)
        child.kill()
    assert (folder / LIVE).read_bytes() == b""
    tape.close()


def test_the_folder_of_another_run_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """This holds while it is written, and otherwise."""
    run, other = new_run(tmp_path / "run"), new_run(tmp_path / "other")
    for each in (run, other):
        tape_folder(each, "ticks", 0, 0).mkdir(parents=True)
    folder = tape_folder(run, "ticks", 0, 0)
    tape = Tape(folder, read_run_info(run).id)
    run.rename(tmp_path / "aside")
    other.rename(run)
    for _ in range(2):
        assert tape.append(b"one\n") == 0
        assert str(tape.last_error) == "[Errno 2] another run is in its place"
    assert list(folder.iterdir()) == []
    run.rename(other)
    (tmp_path / "aside").rename(run)
    assert tape.append(b"two\n") == 4
    assert (folder / LIVE).read_text() == "two\n"
    tape.close()


def test_a_tape_is_a_regular_file(tmp_path: Path) -> None:
    """Opening a named pipe would make sealing wait forever."""
    os.mkfifo(tmp_path / LIVE)
    with pytest.raises(OSError, match=r"No such device|not a regular file"):
        Tape(tmp_path)
    assert not is_written(tmp_path)


def test_all_lines_that_wait_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    write = os.writev
    channel = Channel(tmp_path, None, 1000)
    lines = [encode({"number": number}) for number in range(100)]
    for line in lines[:50]:
        assert channel.put(line)
    channel.drain()
    monkeypatch.setattr(os, "writev", lambda *given: writes.append(1) or write(*given))
    for line in lines[50:]:
        assert channel.put(line)
    assert len(channel.ring.peek()) == 2, "around the end of the ring"
    channel.drain()
    channel.drain()
    assert len(writes) == 1
    assert (tmp_path / LIVE).read_bytes() == b"".join(lines)
    channel.close()
