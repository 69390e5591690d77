"""Two launchers of torchrun, as on two machines: one is lost, and the other goes on alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from torch.distributed import TCPStore

from metronorm.runs import open_run

from .fault_task import options
from .faults import OPTIONS, ROUNDING, TICKS, Result, difference, result_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def launcher(folder: Path, fault: dict[str, Any], port: int) -> subprocess.Popen[str]:
    """The launcher of one process, where one or two launchers make a training."""
    found_soon = "is_host=0,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3"
    torchrun = [
        *("-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "it"),
        *("--rdzv-conf", found_soon, "--local-addr", "127.0.0.1", "--max-restarts", "3"),
        *("-m", "--", "metronorm"),
    ]
    changes = {"resume_or_start": str(folder / "run"), "optimizer.name": "ticks", **OPTIONS}
    words = options(parallel="fsdp", **changes, **{"optimizer.clip": "0.0"})
    environment = {
        **os.environ,
        "FAULT": json.dumps(fault),
        "PYTHONWARNINGS": "error",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # see the page on many processes
    }
    return subprocess.Popen(
        [sys.executable, *torchrun, "train", *words],
        env={**environment, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


# the tick after which the training goes on: the newest that is saved; a signal may come so late in
# a tick that the next one is the last
@pytest.mark.parametrize(
    ("kind", "kept"), [("SIGKILL of machine", (4,)), ("SIGKILL of launcher", (7, 8))]
)
def test_a_lost_machine_leaves_the_training_to_the_other(
    kind: str, kept: tuple[int, ...], judge: Result, tmp_path: Path
) -> None:
    fault = {"rank": 1, "tick": 7, "phase": "backward", "kind": kind, "once": str(tmp_path / "it")}
    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    launchers = [launcher(tmp_path, fault, store.port) for _ in range(2)]
    try:
        said = [each.communicate(timeout=400)[1] for each in launchers]
    finally:
        for each in launchers:
            each.kill()
    assert sorted(each.returncode for each in launchers) == [-9, 0], "\n".join(said)
    run = open_run(tmp_path / "run")
    attempts = {(row["tick"], row["rank"]): row["attempt"] for row in run.ticks().rows()}
    last = max(tick for (tick, _), attempt in attempts.items() if attempt == 0)
    assert last in kept
    before, after = range(1, last + 1), range(last + 1, TICKS + 1)
    expected = {(tick, rank): 0 for tick in before for rank in (0, 1)}
    assert attempts == expected | {(tick, 0): 1 for tick in after}
    assert difference(result_of(tmp_path / "run"), judge) <= ROUNDING
