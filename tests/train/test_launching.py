"""`metronorm train --processes`: signals to the launcher, and what it does about its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.runs import open_run

from .fault_task import options

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def launched(folder: Path, fault: dict[str, Any], **changes: str) -> tuple[int, str]:
    """The exit code of a launcher of two processes, and what all have said.

    It comes back when nobody has the pipe open any more: no process is left.
    """
    fault = {"once": str(folder / "harmed"), **fault}
    words = options(run=str(folder / "run"), processes="2", **changes)
    launcher = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "metronorm", "train", *words],
        env={**os.environ, "FAULT": json.dumps(fault)},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with launcher:
        said, _ = launcher.communicate()
        return launcher.returncode, said


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_the_launcher_saves_the_last_tick(name: str, tmp_path: Path) -> None:
    fault = {"rank": 1, "tick": 5, "phase": "forward", "kind": f"{name} of launcher"}
    code, said = launched(tmp_path, fault, ticks="1000")
    assert code == 128 + signal.Signals[name], said
    (line,) = [line for line in said.splitlines() if "stopped" in line]
    found = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert line.startswith(f"stopped by {name} after tick {found.tick}; go on with: metronorm")
    assert found.tick in (5, 6)
    rows = open_run(tmp_path / "run").ticks().rows()
    assert {row["rank"] for row in rows} == {0, 1}
    assert max(row["tick"] for row in rows) == found.tick
    assert "Traceback" not in said


def test_a_signal_before_the_first_tick_ends_all(tmp_path: Path) -> None:
    fault = {"rank": 1, "tick": 0, "phase": "prepare", "kind": "SIGTERM of launcher"}
    code, said = launched(tmp_path, fault)
    assert (code, said) == (128 + signal.SIGTERM, "stopped by SIGTERM before the first tick\n")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_stopped_rank_goes_on_to_its_end(tmp_path: Path) -> None:
    """It is told to end as the others have, and does not hold the launcher."""
    fault = {"rank": 1, "tick": 3, "phase": "backward", "kind": "SIGSTOP"}
    code, said = launched(tmp_path, fault, rank_timeout="2")
    assert code == 2
    (line,) = [line for line in said.splitlines() if "metronorm train: " in line]
    assert line.startswith("metronorm train: rank 1 on ")
    events = open_run(tmp_path / "run").events().rows()
    assert sorted(row["rank"] for row in events if row["event"] == "rank lost") == [0, 1]
