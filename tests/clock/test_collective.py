"""One of several ranks is slow: all ticks take the same time, but arrivals show which it is."""

from pathlib import Path

import pytest

from metronorm.runs import open_run
from metronorm.runs.diagnosing import diagnose

from ..side_by_side import run_together

SCRIPT = Path(__file__).parent / "collective_ranks.py"
DELAY_NS, RANKS = 100_000_000, 3
CASES = [
    "ddp", "static graph", "hook", "two beats", "one reduction", "by hand", "sharded", "data",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the runs that all ranks have recorded."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    run_together(
        [[str(SCRIPT), str(folder), str(folder / "store")]] * RANKS,
        environments=[{**launch, "RANK": str(rank)} for rank in range(RANKS)],
        seconds=200,
    )
    return folder


def medians(folder: Path, case: str, column: str) -> list[float]:
    """The median of each rank, without the first ticks, in which everything starts."""
    ticks = open_run(folder / case).ticks()
    rows = ticks.sql(
        f"""select rank, median(coalesce("{column}", 0)) from ticks
            where tick > 2 group by rank order by rank"""
    ).fetchall()
    assert [rank for rank, _ in rows] == list(range(RANKS))
    return [median for _, median in rows]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_slow_rank_arrives_last(folder: Path, case: str) -> None:
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
