"""No tick is lost or doubled if sealing is killed, done twice, or meets damage."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metronorm.errors import OutOfMemoryError, RunError
from metronorm.runs import open_run
from metronorm.store import ring as rings
from metronorm.store import sealing as sealing
from metronorm.store.run_directory import tape_folder
from metronorm.store.sealing import recover_all, seal_parts, seal_run, start_sealing
from metronorm.store.spawn import is_running
from metronorm.store.tape import LIVE, Tape

from .stores import files, line, new_run, numbers, until, write_tape

CRASHING = Path(__file__).with_name("crashing.py")


pytestmark = pytest.mark.usefixtures("shared")


def test_a_crash_anywhere_leaves_each_tick_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    done = subprocess.run(
        [sys.executable, str(CRASHING), str(base)], check=True, capture_output=True, text=True
    )
    kills, code = map(int, done.stdout.split())
    assert code == 0
    assert kills > 20
    monkeypatch.setattr(rings, "shared_folder", lambda: base / "shared")
    for kill in range(kills):
        run = base / str(kill)
        folder = tape_folder(run, "ticks", 0, 0)
        left_out = [f"{folder}: 2 damaged lines were left out"]
        killed = open_run(run)
        assert numbers(killed) == [1, 2, 3, 4, 5, 6], files(folder)
        assert [notice for notice in killed.notices() if "torn" not in notice] == left_out
        if kill % 2:
            recover_all()  # as a run that starts on this machine does
            assert numbers(killed) == [1, 2, 3, 4, 5, 6], files(folder)
        seal_run(run)
        sealed = open_run(run)
        assert numbers(sealed) == [1, 2, 3, 4, 5, 6], files(folder)
        assert sealed.notices() == left_out
        assert files(folder) == [
            "_part-00000.damaged",
            "_part-00001.damaged",
            "part-00000.parquet",
            "part-00001.parquet",
        ]
        assert seal_run(run) == 0
    assert list((base / "shared").iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"PAR1" + b"\0" * 1000 + b"PAR1",
        lambda data: b"garbage" * 1000,
        lambda data: data[:100] + b"\0" * 400 + data[500:],
        lambda data: data[:-8] + b"\xff\xff\xff\x7f" + data[-4:],
    ],
    ids=["empty", "last byte", "half", "ends alone", "garbage", "a hole", "footer"],
)
def test_a_damaged_part(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run = new_run(tmp_path / "run")
    many = [line(tick) for tick in range(1, 101)]
    folder = write_tape(run, many[:40], many[40:80], many[80:])
    assert seal_run(run) == 3
    part = folder / "part-00001.parquet"
    part.write_bytes(damage(part.read_bytes()))
    read = open_run(run, verify=True)
    left = [row["tick"] for row in read.ticks().rows()]
    assert left == [*range(1, 41), *range(81, 101)]
    assert read.notices() == [f"{part}: a damaged part was left out"]
    assert seal_run(run) == 0
    assert numbers(run) == [*range(1, 41), *range(81, 101)]
    aside = folder / "_part-00001.parquet.broken"
    assert open_run(run).notices() == [f"{aside}: a damaged part was left out"]
    for other in folder.glob("part-*"):
        other.write_bytes(b"garbage")
    assert numbers(run) == []
    assert len(open_run(run).notices()) == 3


@pytest.mark.parametrize("damage", [slice(0), slice(None, -9), slice(200)])
def test_lines_are_kept_while_their_part_is_damaged(tmp_path: Path, damage: slice) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1), line(2)], [line(3)])
    lines = (folder / "_part-00000.jsonl").read_bytes()
    seal_run(run)
    part = folder / "part-00000.parquet"
    whole = part.read_bytes()
    (folder / "_part-00000.jsonl").write_bytes(lines)
    part.write_bytes(whole[damage])
    assert numbers(run) == [1, 2, 3]
    assert seal_run(run) == 1
    assert numbers(run) == [1, 2, 3]
    assert open_run(run).notices() == []
    assert files(folder) == ["part-00000.parquet", "part-00001.parquet"]


def test_lines_whose_part_has_a_hole_are_sealed_again(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1), line(2)], [])
    shutil.copy(folder / "_part-00000.jsonl", tmp_path / "kept")
    seal_run(run)
    part = folder / "part-00000.parquet"
    data = part.read_bytes()
    part.write_bytes(data[:4] + bytes(300) + data[304:])
    shutil.copy(tmp_path / "kept", folder / "_part-00000.jsonl")
    assert seal_run(run) == 1
    assert numbers(run) == [1, 2]


def test_damaged_lines_are_reported_before_and_after(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    damaged = [b"\0\xff {\n", b'{"tick":1}\n', b"a\rb\n"]
    folder = write_tape(run, [line(1), *damaged], [damaged[0], line(2), line(3)[:-9]], [line(4)])
    notice = f"{folder}: 5 damaged lines were left out"
    assert open_run(run).notices() == [notice]
    seal_run(run)
    assert open_run(run).notices() == [notice]
    assert numbers(run) == [1, 2, 4]
    assert (folder / "_part-00000.damaged").read_bytes() == b"".join(damaged)
    assert (folder / "_part-00001.damaged").read_bytes() == damaged[0] + line(3)[:-9]


def test_nothing_but_damage(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [b"garbage\n"], [b"\0" * 1000])
    seal_run(run)
    assert numbers(run) == []
    assert open_run(run).notices() == [f"{folder}: 2 damaged lines were left out"]


def test_a_run_that_is_sealed_while_a_stretch_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its two renames there is no live tape."""
    run = new_run(tmp_path / "run")
    folder = tape_folder(run, "ticks", 0, 0)
    folder.mkdir(parents=True)
    tape = Tape(folder)
    tape.append(line(1))
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(source).name == LIVE:
            monkeypatch.setattr(os, "rename", rename)
            seal_run(run)

    monkeypatch.setattr(os, "rename", renamed)
    with contextlib.suppress(OSError, RunError):
        tape.rotate()
    assert tape.append(line(2)) == len(line(2))
    assert numbers(run) == [1, 2]
    tape.close()
    seal_run(run)
    assert numbers(run) == [1, 2]


def test_several_seal_at_once(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, *([line(tick)] for tick in range(1, 9)))
    ready = threading.Barrier(4)
    failed = []

    def seal() -> None:
        ready.wait()
        try:
            seal_parts(folder, "ticks")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert files(folder) == [LIVE, *(f"part-0000{number}.parquet" for number in range(7))]
    assert numbers(run) == list(range(1, 9))


def test_a_part_with_a_wrong_count_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1), line(2)])
    load_lines = sealing.load_lines

    def load_one(connection: Any, kind: str, tapes: Any, table: str) -> dict[str, str]:
        return load_lines(connection, kind, [(place, lines[:1]) for place, lines in tapes], table)

    with monkeypatch.context() as patch:
        patch.setattr(sealing, "load_lines", load_one)
        with pytest.raises(OSError, match="has 2 records"):
            seal_run(run)
    assert files(folder) == ["_part-00000.jsonl"]
    assert numbers(run) == [1, 2]
    assert seal_run(run) == 1


def test_leftovers_of_a_sealing_that_was_killed_are_removed(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1)])
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    host = os.uname().nodename.replace(".", "-")
    (folder / f".part-00000.parquet.{host}.{dead.pid}.0.tmp").write_bytes(b"half")
    (folder / f".part-00000.parquet.{host}.{os.getpid()}.{10**9}.tmp").write_bytes(b"being written")
    seal_run(run)
    assert len(files(folder)) == 2
    assert str(os.getpid()) in files(folder)[0]


def test_what_looks_like_a_part_of_a_tape_is_left_alone(tmp_path: Path) -> None:
    """Opening a named pipe would wait, and a device never ends."""
    run = new_run(tmp_path / "run")
    folder = write_tape(run, [line(1)], [line(2)])
    for name in ("_part-00007.jsonl", "part-00008.parquet", "part-x.parquet"):
        os.mkfifo(folder / name)
    (folder / "_part-00009.jsonl").symlink_to("/dev/zero")
    (folder / "part-00010.parquet").mkdir()
    assert numbers(run) == [1, 2]
    assert seal_run(run) == 2
    assert numbers(run) == [1, 2]
    assert (folder / "_part-00007.jsonl").exists()
    assert len([path for path in folder.glob("part-*.parquet") if path.is_file()]) == 2
    os.mkfifo(folder / LIVE)
    assert numbers(run) == [1, 2]
    with pytest.raises(OSError, match=r"regular file|No such device"):
        seal_run(run)


@pytest.mark.parametrize("name", ["run[1]", "run?", "run*", "r{1,2}n", "run **", "a'b"])
def test_characters_of_patterns_in_a_path_are_literal(tmp_path: Path, name: str) -> None:
    """Other runs, with damaged parts, have the names that such a pattern would match."""
    for other in ("run1", "runx", "r1n", "ab"):
        folder = write_tape(new_run(tmp_path / other), [line(8)], [])
        seal_run(tmp_path / other)
        (folder / "part-00000.parquet").write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    run = new_run(tmp_path / name)
    folder = write_tape(run, [line(1)], [line(2)])
    for _ in range(2):
        assert seal_run(run) in (0, 2)
        assert files(folder) == ["part-00000.parquet", "part-00001.parquet"]
        assert numbers(run) == [1, 2]
        assert open_run(run).notices() == []
    assert (tmp_path / "run1" / "ticks").is_dir()


@pytest.mark.parametrize("room", ["1MB", "100MB"])
def test_too_little_memory_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    """No part is renamed, and temporary files are removed at the end."""
    run = new_run(tmp_path / "run")
    metrics: dict[str, float | str] = {f"m{number}": number / 3 for number in range(300)}
    folder = write_tape(run, [line(tick, metrics) for tick in range(1, 1001)], [line(1001)])
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    connect = sealing.connect
    with monkeypatch.context() as patch:
        patch.setattr(sealing, "connect", lambda **config: connect(**config, memory_limit=room))
        if room == "1MB":
            with pytest.raises(OutOfMemoryError, match="more memory than there is"):
                seal_run(run)
            assert files(folder) == ["_part-00000.jsonl", "_part-00001.jsonl"]
        else:
            assert seal_run(run) == 2
    assert numbers(run) == list(range(1, 1002))
    assert open_run(run).notices() == []
    assert list((tmp_path / "work").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert seal_run(run) == (2 if room == "1MB" else 0)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc of Linux")
def test_one_process_after_the_other_seals_a_folder(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    folder = write_tape(run, *([line(tick)] for tick in range(1, 9)))

    def is_there(process: int) -> bool:
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            return any(file.samefile(folder) for file in Path(f"/proc/{process}/fd").iterdir())
        return False

    with sealing._one_at_a_time(folder):
        processes = [start_sealing(folder) for _ in range(2)]
        until(lambda: all(map(is_there, processes)))
        assert not list(folder.glob("part-*"))
    until(lambda: not any(map(is_running, processes)))
    assert files(folder) == [LIVE, *(f"part-0000{number}.parquet" for number in range(7))]
