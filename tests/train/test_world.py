"""The same training on any number of processes, against one process, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.text import size
from metronorm.train import train

from .tiny import writing
from .world_task import CASES, Net, config_of, count, loss, task

if TYPE_CHECKING:
    from tests.forked import Forks

RANKS = Path(__file__).parent / "world_ranks.py"
ROUNDING = 1e-12
IN_FLOAT32 = ("gradient.", "weight.", "update.")  # what a hook observes of layers


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases on one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, changes in CASES.items():
        train(task, config_of(**changes), folder / name)
    train(task, config_of(init_from=str(folder / "ticks")), folder / "init from")
    train(text.task, writing(folder), folder / "writes")
    return folder


def samples(run: Path) -> list[tuple[int, str]]:
    """What the model of a run has written."""
    return [(each.tick, each.read().decode()) for each in open_run(run).samples()]


def check_evaluation_of_saved_weights(run: Path) -> None:
    """The recorded evaluation of a model with BatchNorm is that of what is saved."""
    model = Net("batch norm").double()
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    found.load_model(model)
    batches: Any = task(config_of()).validation
    with torch.no_grad():
        total = sum(float(loss(model.eval(), batch)) for batch in batches)
    expected = total / sum(count(batch) for batch in batches)
    for rank in {row["rank"] for row in open_run(run).ticks().rows()}:
        last = record(run, rank)[-1]
        assert last["validation_loss"] == pytest.approx(expected, rel=ROUNDING)


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
    parallel: str, world: int, alone: Path, ranks_of_torch: Forks, tmp_path: Path
) -> None:
    said = ranks_of_torch.run_together(
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
    assert samples(tmp_path / "writes") == samples(alone / "writes") != []
    check_evaluation_of_saved_weights(tmp_path / "batch norm")
    compared = 0
    for name in (*CASES, "init from"):
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
