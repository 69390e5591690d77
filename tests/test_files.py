import os
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.files import (
    directory_aside,
    is_inside,
    open_regular,
    read_regular,
    remove_directory,
    remove_leftovers,
    write_atomic,
)

DAY = 86_400


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def aside_name(host: str, process: int) -> str:
    return f".tick-00001000.{host}.{process}.0.tmp"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "done"
    with directory_aside(target) as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "file").write_text("x")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_in_a_directory_is_for_those_who_may_read_the_directory(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            with directory_aside(tmp_path / str(mask)) as aside:
                (aside / "file").touch(0o600)
        finally:
            os.umask(before)
        assert (tmp_path / str(mask) / "file").stat().st_mode & 0o777 == mode


def fill(target: Path, error: type[BaseException]) -> None:
    with directory_aside(target) as aside:
        (aside / "file").write_text("x")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_no_trace(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fill(tmp_path / "done", error)
    assert not list(tmp_path.iterdir())


def fill_twice(target: Path) -> None:
    with directory_aside(target) as one:
        (one / "file").write_text("one")
        with directory_aside(target) as other:
            (other / "file").write_text("other")


def test_two_directories_aside_in_one_process_do_not_share_a_name(tmp_path: Path) -> None:
    target = tmp_path / "done"
    with pytest.raises(OSError, match="not empty"):
        fill_twice(target)
    assert (target / "file").read_text() == "other"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_directory(tmp_path / "a")
    remove_directory(tmp_path / "a")  # it does not exist any more
    assert not list(tmp_path.iterdir())


def test_only_leftovers_of_dead_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "here.example.org")
    dead, alive = dead_process(), os.getpid()
    names = {
        aside_name("here-example-org", dead): False,
        aside_name("here-example-org", alive): True,
        aside_name("there", dead): True,  # it may be alive on the other machine
        ".somebody.else.tmp": True,
        "tick-00001000": True,
    }
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    file = tmp_path / f".run.json.here-example-org.{dead}.3.tmp"
    file.write_text("x")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {n for n, stays in names.items() if stays}
    there = tmp_path / aside_name("there", dead)
    changed = (there / "file").stat().st_mtime
    remove_leftovers(tmp_path, now=changed + DAY - 1)
    assert there.exists()
    remove_leftovers(tmp_path, now=changed + DAY + 1)
    assert not there.exists()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT])
def test_only_regular_files_are_opened(tmp_path: Path, flags: int) -> None:
    """Opening a named pipe would wait, and a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zero", "folder"):
        with pytest.raises(OSError, match=r"regular file|No such device|[Ii]s a directory"):
            open_regular(tmp_path / name, flags)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"text"
    os.close(open_regular(tmp_path / "file", flags))


def test_what_links_lead_to_is_inside_or_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "inner").mkdir(parents=True)
    (run / "in").symlink_to(run / "inner")
    (run / "out").symlink_to(tmp_path)
    (run / "loop").symlink_to(run / "loop")
    (tmp_path / "run-2").mkdir()
    (tmp_path / "link").symlink_to(run)
    inside = {name: is_inside(tmp_path / name, run) for name in ("run/inner/new", "run/in", "link")}
    assert all(inside.values())
    assert is_inside(run / "loop" / "x", run)  # leads nowhere: opening it is an error
    assert not any(is_inside(tmp_path / name, run) for name in ("run/out", "run/out/x", "run-2"))
    assert is_inside(tmp_path / "link" / "inner", run)
