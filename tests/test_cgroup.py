"""How much memory a control group leaves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metronorm.cgroup import bytes_left

MIB = 2**20


def group(folder: Path, limit: str, used: int, inactive: int = 0, *, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {inactive}\n")


def left(tmp_path: Path, lines: str) -> int | None:
    process = tmp_path / "cgroup"
    process.write_text(lines)
    return bytes_left(process, tmp_path / "root")


def test_of_all_groups_above_the_tightest_counts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    group(root / "job" / "step", "max", 50)
    group(root / "job", "1000", 700, inactive=200)
    group(root, "5000", 900)
    assert left(tmp_path, "0::/job/step\n") == 1000 - 700 + 200
    group(root / "job" / "step", "60", 50)
    assert left(tmp_path, "0::/job/step\n") == 10


def test_version_1_has_its_own_names(tmp_path: Path) -> None:
    group(tmp_path / "root" / "memory" / "job", "1000", 700, inactive=50, version=1)
    assert left(tmp_path, "8:pids:/\n4:cpu,memory:/job\n0::/\n") == 350


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    group(tmp_path / "root", "1000", 400)
    assert left(tmp_path, "0::/docker/0123\n") == 600


def test_more_than_the_limit_leaves_nothing(tmp_path: Path) -> None:
    group(tmp_path / "root", "1000", 1200)
    assert left(tmp_path, "0::/\n") == 0


@pytest.mark.parametrize("limit", ["max", "none of a number"])
def test_without_a_limit(tmp_path: Path, limit: str) -> None:
    group(tmp_path / "root", limit, 400)
    assert left(tmp_path, "0::/\n") is None
    assert bytes_left(tmp_path / "gone", tmp_path) is None


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A group of this machine with a limit of 300 MiB."""
    for top, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        folder = top / f"metronorm-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(300 * MIB))
        except OSError:
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no group of memory can be made here")


def test_a_process_in_a_real_group(real_group: Path) -> None:
    script = """
import os, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
from metronorm.memory import available_bytes
before = available_bytes()
held = b"x" * (100 << 20)
print(before, available_bytes())
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(real_group / "cgroup.procs")],
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    before, after = map(int, ended.stdout.split())
    assert before <= 300 * MIB
    assert 90 * MIB < before - after < 110 * MIB
