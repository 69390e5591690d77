"""The same training on any number of processes, against one process, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metronorm.runs import open_run
from metronorm.text import size
from metronorm.train import train
from tests.side_by_side import run_together

from .world_task import CASES, config_of, task

RANKS = Path(__file__).parent / "world_ranks.py"
ROUNDING = 1e-12
IN_FLOAT32 = ("gradient.", "weight.", "update.")  # what a hook observes of layers


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases on one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, changes in CASES.items():
        train(task, config_of(**changes), folder / name)
    return folder


def record(run: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What the ticks of a rank hold, apart from what the machine decides."""
    rows = [row for row in open_run(run).ticks().rows() if row["rank"] == rank]
    kept = ("loss", "gradient_norm", "learning_rate")
    begins = ("validation_", "test_", *IN_FLOAT32)
    return [
        {
            name: value
            for name, value in row.items()
            if value is not None and (name in kept or name.startswith(begins))
        }
        for row in rows
    ]


@pytest.mark.parametrize(("parallel", "world"), [("ddp", 2), ("ddp", 3), ("fsdp", 2), ("fsdp", 3)])
def test_a_tick_does_not_know_the_world(
    parallel: str, world: int, alone: Path, tmp_path: Path
) -> None:
    said = run_together(
        [
            [str(RANKS), parallel, str(rank), str(world), str(tmp_path / "store"), str(tmp_path)]
            for rank in range(world)
        ],
        seconds=240,
    )
    every = open_run(tmp_path / "adamw").ticks().rows()
    assert all(row["arrival_ns"] is not None for row in every)  # so stragglers can be found
    assert f"processes  {world} ({parallel}, gloo)" in said[0]
    kept = 373 if parallel == "ddp" else {2: 192, 3: 147}[world]  # numbers, in float64
    assert f"keeps the gradient separate from the sum: {size(8 * kept)} more on each" in said[0]
    compared = 0
    for name in CASES:
        if parallel == "fsdp" and name.startswith("sometimes"):
            continue
        expected = record(alone / name)
        for rank in range(world):
            found = record(tmp_path / name, rank)
            assert [row.keys() for row in found] == [row.keys() for row in expected], name
            for ours, theirs in zip(found, expected, strict=True):
                for key, value in theirs.items():
                    near = 1e-5 if key.startswith(IN_FLOAT32) else ROUNDING
                    assert ours[key] == pytest.approx(value, rel=near, abs=near), (name, rank, key)
                compared += 1
    assert compared >= 6 * world * (len(CASES) - 2)
