"""One of several processes that train together: ddp|fsdp RANK WORLD STORE FOLDER.

Each case is trained in `FOLDER/CASE`; the test compares the records with those of one process.
"""

from __future__ import annotations

import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.train import train
from tests.side_by_side import leave
from tests.train.world_task import CASES, config_of, task


def main() -> None:
    parallel: Any = sys.argv[1]
    rank, world, store, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
    distributed.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=120), rank=rank, world_size=world
    )
    for name, changes in CASES.items():
        try:
            train(task, config_of(parallel=parallel, **changes), folder / name)
        except Exception:
            print(f"{name}, rank {rank}\n{traceback.format_exc()}", flush=True)
            raise
    stopped = train(task, config_of(parallel=parallel, kind="stop"), folder / "stop")
    assert (stopped.tick, stopped.reason) == (3, "rank 1 has seen enough"), stopped


if __name__ == "__main__":
    main()
    leave()
