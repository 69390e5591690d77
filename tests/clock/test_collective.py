"""Of several ranks one is slow: by their arrivals it is told, though their ticks take as long."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.clock import open_run

SCRIPT = Path(__file__).parent / "collective_ranks.py"
DELAY_NS, RANKS = 50_000_000, 4
CASES = [
    "ddp", "static graph", "hook", "two beats", "one reduction", "by hand", "sharded", "data",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs that all ranks have recorded."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT), str(folder), str(folder / "store")],
            env={**os.environ, **launch, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        said = [process.communicate(timeout=200)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * RANKS, "\n".join(said)
    return folder


def medians(folder: Path, case: str, column: str) -> list[float]:
    """By rank; the first ticks, in which all begin, are left out."""
    found = []
    for rank in range(RANKS):
        rows = open_run(folder / case / str(rank)).ticks().rows()
        found.append(statistics.median(row.get(column) or 0 for row in rows[2:]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_slow_rank_arrives_late(folder: Path, case: str) -> None:
    *others, slow = medians(folder, case, "arrival")
    assert min(others) > 0
    assert slow - max(others) >= 0.6 * DELAY_NS
    walls = medians(folder, case, "wall_ns")
    assert max(walls) - min(walls) < DELAY_NS


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "by hand"])
def test_the_others_wait_for_it(folder: Path, case: str) -> None:
    *others, slow = medians(folder, case, "communicate_ns")
    assert min(others) - slow >= 0.6 * DELAY_NS
