"""Runs for tests of the page that a real training has left: `python trained_runs.py FOLDER`.

| run | what happened |
| --- | --- |
| `first` | a small GPT learnt a text to the end |
| `killed` | the same, killed after tick `KILLED` and resumed from the checkpoint of `SAVED` |
| `two ranks` | two processes trained together, with another learning rate |
| `diverged` | a learning rate that no training survives |

Each is trained by a process forked from this one, which has loaded torch and never computes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.tasks.text import Config
    from metronorm.train import Moment, Task

TICKS, SAVED, KILLED = 60, 30, 37
OBSERVED = 5  # ticks between two looks at the layers


def train_all(folder: Path) -> None:
    """Train the runs in a process of their own; takes about ten seconds."""
    command = [sys.executable, "-W", "error", __file__, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr


def main(folder: Path) -> None:
    """Train the runs, one after the other."""
    from torch import distributed

    from metronorm.errors import DivergenceError
    from metronorm.tasks import text
    from metronorm.tasks.observe import observe
    from metronorm.train import Hook, OptimizerConfig, train
    from tests.train.tiny import tiny_config

    config = tiny_config(
        folder.parent / "learnt",
        ticks=TICKS,
        evaluate_every=10,
        checkpoint_every=SAVED,
        sample_every=20,
        sample_tokens=40,
    )

    def task(config: Config, *hooks: Hook) -> Task:
        plain = text.task(config)
        return replace(plain, hooks=[*plain.hooks, observe(OBSERVED), *hooks])

    def kill(moment: Moment) -> None:
        if moment.tick == KILLED + 1:  # it is not on record yet
            os.kill(os.getpid(), signal.SIGKILL)

    def rank(number: int) -> None:
        store = folder.parent / "store"
        distributed.init_process_group("gloo", f"file://{store}", rank=number, world_size=2)
        other = replace(changed(learning_rate=3e-3), sample_every=0)
        train(task, other, folder / "two ranks")

    def diverge() -> None:
        try:
            train(task, changed(learning_rate=1e30, clip=0.0), folder / "diverged")
        except DivergenceError:
            pass
        else:
            raise AssertionError("the training survived")

    def changed(**options: Any) -> Config:
        return replace(config, optimizer=OptimizerConfig(**options))

    run = folder / "killed"
    _together(lambda: train(task, config, folder / "first"))
    _together(lambda: train(lambda it: task(it, Hook(1, kill)), config, run), code=-signal.SIGKILL)
    _together(lambda: train(task, config, run, resume=True))
    _together(lambda: rank(0), lambda: rank(1))
    _together(diverge)


def _together(*works: Callable[[], object], code: int = 0) -> None:
    """Do this in processes of their own, which must end with this code."""
    started = []
    for work in works:
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        started.append(pid)
    ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]
    assert ended == [code] * len(works), ended


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(Path(sys.argv[1]))
