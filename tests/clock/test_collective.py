"""Of several ranks one is slow: by their arrivals it is told, though their ticks take as long."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.clock import open_run
from metronorm.clock.diagnosis import diagnose

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
    ticks = open_run(folder / case).ticks()
    rows = ticks.sql(
        f"""select rank, median(coalesce("{column}", 0)) from ticks
            where tick > 2 group by rank order by rank"""
    ).fetchall()
    assert [rank for rank, _ in rows] == list(range(RANKS))
    return [median for _, median in rows]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_slow_rank_arrives_late(folder: Path, case: str) -> None:
    *others, slow = medians(folder, case, "arrival_ns")
    assert min(others) > 0
    assert slow - max(others) >= 0.6 * DELAY_NS
    walls = medians(folder, case, "wall_ns")
    assert max(walls) - min(walls) < DELAY_NS


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "by hand"])
def test_the_others_wait_for_it(folder: Path, case: str) -> None:
    *others, slow = medians(folder, case, "communicate_ns")
    assert min(others) - slow >= 0.6 * DELAY_NS


@pytest.mark.slow
def test_the_diagnosis_names_it_with_its_milliseconds(folder: Path) -> None:
    finding = next(one for one in diagnose(open_run(folder / "ddp")) if one.rule == "straggler")
    assert finding.evidence["rank"] == RANKS - 1
    assert finding.evidence["late_ns"] >= 0.6 * DELAY_NS
