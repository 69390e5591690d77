"""One of several processes that train together: ddp|fsdp RANK WORLD STORE FOLDER.

Each case is trained in `FOLDER/CASE`; the test compares the records with those of one process.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.errors import ConfigError, RankError
from metronorm.tasks import text
from metronorm.train import Hook, train
from tests.side_by_side import leave
from tests.train.tiny import writing
from tests.train.world_task import CASES, REFUSED, config_of, task


def main() -> None:
    parallel: Any = sys.argv[1]
    rank, world, store, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
    distributed.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=120), rank=rank, world_size=world
    )
    for name, changes in CASES.items():
        if parallel == "fsdp" and changes.get("kind") == "sometimes":
            continue
        try:
            train(task, config_of(parallel=parallel, **changes), folder / name)
        except Exception:
            print(f"{name}, rank {rank}\n{traceback.format_exc()}", flush=True)
            raise
    from_weights = config_of(parallel=parallel, init_from=str(folder / "ticks"))
    train(task, from_weights, folder / "init from")
    writes(parallel, folder)
    stopped = train(task, config_of(parallel=parallel, kind="stop"), folder / "stop")
    assert (stopped.tick, stopped.reason) == (3, "rank 1 has seen enough"), stopped
    buffers_are_those_of_rank_0(config_of(parallel=parallel, kind="batch norm"), folder)
    for kind, said in REFUSED.items():
        if parallel == "fsdp" or kind == "wrapped":
            is_refused(said, config_of(parallel=parallel, kind=kind), folder / kind)
    if parallel == "fsdp":  # at last, as the ranks do not agree afterwards
        sometimes = config_of(parallel=parallel, kind="sometimes")
        is_refused("use the same parameters", sometimes, folder / "last")


def writes(parallel: Any, folder: Path) -> None:
    """A training of text lets the model write; it does so on all ranks together."""
    for rank in range(distributed.get_world_size()):
        if rank == distributed.get_rank():
            config = writing(folder, parallel=parallel)
        distributed.barrier()
    train(text.task, config, folder / "writes")


def buffers_are_those_of_rank_0(config: Any, folder: Path) -> None:
    """After each tick all ranks have the running statistics of rank 0."""
    seen: list[Any] = []
    hook = Hook(1, lambda moment: seen.append(moment.model.norm.running_mean.clone()))  # type: ignore[union-attr]
    train(replace(task(config), hooks=[hook]), config, folder / "batch norm")
    everybody: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, torch.stack(seen))
    assert all(each.equal(everybody[0]) for each in everybody)
    assert len(seen[0].unique()) > 1


def is_refused(said: str, config: Any, folder: Path) -> None:
    """Each rank ends with an error that says so: one with its own, the others with what it said."""
    with pytest.raises((ConfigError, RankError), match=said):
        train(task, config, folder)


if __name__ == "__main__":
    if child := os.fork():  # ranks on several machines have no parent in common
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    main()
    leave()
