import contextlib
import os
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.store import ring as rings
from metronorm.store.ring import Ring, abandoned_ring, abandoned_rings, read_ring, ring_path
from metronorm.store.sealing import recover_all
from metronorm.store.tape import LIVE

from ..full_disk import fill, small_disk

CAPACITY = 64

HELD = """
import sys
from pathlib import Path
from metronorm.store.ring import Ring

ring = Ring(Path(sys.argv[1]), Path(sys.argv[2]), 1 << 16)
assert ring.shared and ring.put(b"alive\\n")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a tape."""
    made = tmp_path / "run" / "ticks" / "attempt=0" / "rank=0"
    made.mkdir(parents=True)
    return made


def left_behind(folder: Path, *lines: bytes) -> Path:
    """The ring that a killed process leaves, with these lines."""
    path = ring_path("0123", "ticks", 0, 0)
    ring = Ring(path, folder, CAPACITY)
    assert ring.shared
    assert all(map(ring.put, lines))
    ring.close(keep=True)
    return path


def test_lines_come_out_as_they_went_in(shared: Path, folder: Path) -> None:
    path = shared / "ring"
    ring = Ring(path, folder, CAPACITY)
    assert ring.put(b"one\n")
    assert ring.put(b"two\n")
    assert b"".join(ring.peek()) == b"one\ntwo\n" == read_ring(path, folder)
    ring.take(4)
    assert b"".join(ring.peek()) == b"two\n" == read_ring(path, folder)
    assert ring.filled == 4
    ring.take(4)
    assert ring.peek() == []
    assert read_ring(path, folder) == b""
    ring.close()
    ring.close()
    assert not path.exists()
    assert read_ring(path, folder) == b""


@settings(deadline=None, max_examples=75)
@given(
    st.integers(1, CAPACITY),
    st.lists(st.one_of(st.binary(max_size=CAPACITY + 2), st.integers(0, 3)), max_size=60),
)
def test_it_is_a_queue_of_bounded_size(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, actions: list[bytes | int]
) -> None:
    """Compared with a deque. An action is a line to put, or a number of lines to take."""
    folder = tmp_path_factory.mktemp("ring")
    ring = Ring(folder / "ring", folder, capacity)
    waiting: deque[bytes] = deque()
    for action in actions:
        if isinstance(action, bytes):
            room = sum(map(len, waiting)) + len(action) <= capacity
            assert ring.put(action) is room
            if room:
                waiting.append(action)
        else:
            taken = [waiting.popleft() for _ in range(min(action, len(waiting)))]
            ring.take(sum(map(len, taken)))
        assert len(ring.peek()) <= 2
        assert b"".join(ring.peek()) == b"".join(waiting) == read_ring(folder / "ring", folder)
        assert ring.filled == sum(map(len, waiting))
    ring.close()


def test_a_ring_that_cannot_be_shared_still_holds_lines(shared: Path, folder: Path) -> None:
    taken = shared / "taken"
    taken.write_bytes(b"somebody's")
    for path in (None, taken, shared / "no" / "folder"):
        ring = Ring(path, folder, CAPACITY)
        assert not ring.shared
        assert ring.put(b"line\n")
        assert b"".join(ring.peek()) == b"line\n"
        ring.close()
    assert taken.read_bytes() == b"somebody's"


def test_memory_that_is_full_is_not_shared(tmp_path: Path, folder: Path) -> None:
    """All memory is allocated at first: a page that is missing later would kill the process."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "ring"
        ring = Ring(path, folder, 4 << 20)
        assert not ring.shared
        assert not path.exists()
        assert ring.put(b"line\n" * 1000)
        ring.close()
        ballast = fill(disk)
        assert not Ring(path, folder, CAPACITY).shared
        ballast.unlink()
        small = Ring(path, folder, 256 << 10)
        assert small.shared
        fill(disk)
        assert small.put(bytes(256 << 10))
        small.close()


def test_a_copy_of_a_run_has_no_part_in_its_ring(
    shared: Path, folder: Path, tmp_path: Path
) -> None:
    path = left_behind(folder, b"line\n")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert read_ring(path, copy) == b""
    with abandoned_ring(path, copy) as lines:
        assert lines is None
    assert read_ring(path, folder) == b"line\n", "looking at the copy takes nothing"


def test_a_run_that_was_moved_keeps_its_ring(shared: Path, folder: Path, tmp_path: Path) -> None:
    path = left_behind(folder, b"line\n")
    moved = folder.rename(tmp_path / "moved")
    assert read_ring(path, moved) == b"line\n"
    with abandoned_ring(path, moved) as lines:
        assert lines == b"line\n"
    assert not path.exists()


def test_lines_stay_in_the_ring_until_they_are_taken_over(shared: Path, folder: Path) -> None:
    path = left_behind(folder, b"line\n")
    with contextlib.suppress(OSError), abandoned_ring(path, folder) as lines:
        assert lines == b"line\n"
        raise OSError("no room")
    assert read_ring(path, folder) == b"line\n"


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to another user")
def test_the_ring_of_another_user_is_refused(shared: Path, folder: Path) -> None:
    path = left_behind(folder, b"line\n")
    os.chown(path, 12345, -1)
    assert read_ring(path, folder) is None
    assert abandoned_rings() == []
    with abandoned_ring(path, folder) as lines:
        assert lines is None
    assert path.exists()
    os.chown(folder, 12345, -1)
    assert read_ring(path, folder) == b"line\n", "the owner of the run is no stranger"


def test_nothing_waits_for_pipes(shared: Path, folder: Path) -> None:
    """Every user may put files into the folder of the rings."""
    path = ring_path("0123", "ticks", 0, 0)
    os.mkfifo(path)
    assert read_ring(path, folder) == b""
    assert abandoned_rings() == []
    with abandoned_ring(path, folder) as lines:
        assert lines is None
    assert not Ring(path, folder, CAPACITY).shared
    recover_all()


def test_links_are_refused(shared: Path, folder: Path, tmp_path: Path) -> None:
    path = left_behind(folder, b"line\n")
    link = shared / "metronorm-4567-ticks-0-0"
    link.symlink_to(path)
    assert read_ring(link, folder) == b""
    assert abandoned_rings() == [(path, folder)]
    victim = tmp_path / "victim"
    link.unlink()
    link.symlink_to(victim)
    assert not Ring(link, folder, CAPACITY).shared
    assert not victim.exists()


def test_a_living_process_keeps_its_ring(shared: Path, folder: Path) -> None:
    path = ring_path("0123", "ticks", 0, 0)
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(path), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert abandoned_rings() == []
        with abandoned_ring(path, folder) as lines:
            assert lines is None
        recover_all()
        assert read_ring(path, folder) == b"alive\n"
        child.kill()
    assert abandoned_rings() == [(path, folder)]
    with abandoned_ring(path, folder) as lines:
        assert lines == b"alive\n"


def test_what_is_left_of_a_deleted_run_is_removed(shared: Path, folder: Path) -> None:
    path = left_behind(folder, b"line\n")
    assert abandoned_rings() == [(path, folder)]
    shutil.rmtree(folder.parents[2])
    recover_all()
    assert list(shared.iterdir()) == []


def test_a_run_in_the_place_of_a_deleted_one_is_another(shared: Path, folder: Path) -> None:
    left_behind(folder, b"line\n")
    folder.rename(folder.with_name("aside"))
    folder.mkdir()
    recover_all()
    assert list(shared.iterdir()) == []
    assert list(folder.iterdir()) == []


def test_paths_of_another_container_are_not_trusted(
    shared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers may share the memory but not the folders."""
    path = left_behind(folder, b"line\n")
    monkeypatch.setattr(rings, "_mount_namespace", lambda: -1)
    assert abandoned_rings() == [(path, folder)], "the same folder is there too"
    aside = folder.rename(folder.with_name("aside"))
    recover_all()
    assert read_ring(path, aside) == b"line\n"


def test_files_that_are_no_rings(shared: Path, folder: Path) -> None:
    """Files of processes that were killed while they made a ring are removed, others are not."""
    path = left_behind(folder, b"line\n")
    (shared / "metronorm-empty-ticks-0-0").touch()
    (shared / "metronorm-begun-ticks-0-0").write_bytes(bytes(8192))
    others = {
        "metronorm-short-ticks-0-0": b"x",
        "metronorm-other-ticks-0-0": b"x" * 8192,
        "metronorm": bytes(8192),
    }
    for name, content in others.items():
        (shared / name).write_bytes(content)
    assert abandoned_rings() == [(path, folder)]
    assert {each.name for each in shared.iterdir()} == {path.name, *others}
    for name in others:
        assert read_ring(shared / name, folder) == b""
        with abandoned_ring(shared / name, folder) as lines:
            assert lines is None


def test_a_ring_is_not_made_of_a_file_that_was_removed_meanwhile(
    shared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removed the file before it was locked: a new file is made."""
    path = ring_path("0123", "ticks", 0, 0)
    lock = rings.fcntl.flock

    def late(file: int, how: int) -> None:
        monkeypatch.setattr(rings.fcntl, "flock", lock)
        assert abandoned_rings() == []
        lock(file, how)

    monkeypatch.setattr(rings.fcntl, "flock", late)
    ring = Ring(path, folder, CAPACITY)
    assert ring.shared
    assert ring.put(b"line\n")
    assert read_ring(path, folder) == b"line\n"
    ring.close()


def test_rings_are_made_while_others_look_for_abandoned_ones(shared: Path, folder: Path) -> None:
    """No process takes a ring that is being made for one that a dead process began."""
    script = f"""
import sys
from metronorm.store import ring
from pathlib import Path
ring.shared_folder = lambda: Path({str(shared)!r})
print(flush=True)
while True:
    ring.abandoned_rings()
"""
    lookers = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for looker in lookers:
            assert looker.stdout is not None
            looker.stdout.readline()
        for number in range(3000):
            path = ring_path(f"{number:05}", "ticks", 0, 0)
            ring = Ring(path, folder, CAPACITY)
            ring.put(b"line\n")
            found = read_ring(path, folder)
            ring.close()
            assert found == b"line\n", number
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()


def test_lines_of_dead_processes_are_put_on_their_tape(shared: Path, folder: Path) -> None:
    line = b'{"tick":1,"time_ns":2,"wall_ns":3,"beats":1,"phases":{},"metrics":{}}\n'
    ring = Ring(ring_path("0123", "ticks", 0, 0), folder, 64 << 10)
    ring.put(line)
    ring.close(keep=True)
    recover_all()
    recover_all()
    assert (folder / LIVE).read_bytes() == line
    assert list(shared.iterdir()) == []
