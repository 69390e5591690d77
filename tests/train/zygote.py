"""A process that has torch loaded and forks a training for every line it reads.

A line is KIND BASE RUN new|resume, and what `training(KIND, BASE)` of its module gives is trained.

It answers `pid N`, then, when the training has ended, `code N`. It never computes itself, so no
thread pool is there to be broken by the fork. A training that is killed leaves the workers of its
DataLoader behind: they find out after some seconds and end, and must not be in the way meanwhile.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch._dynamo  # noqa: F401, or the first step of an optimizer loads it, in every fork

from metronorm.tasks import text
from metronorm.train import train
from tests.train import stranger
from tests.train.tiny import tiny_config

CHANGES: dict[str, Any] = {"checkpoint_every": 2, "ticks": 60}


def training(kind: str, base: Path) -> tuple[Any, Any]:
    """Task and config: of a text, or of the stranger with batches of this kind."""
    if kind == "text":
        return text.task, tiny_config(base, **CHANGES)
    return stranger.task, stranger.small(batches=kind, **CHANGES)


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        kind, base, run, how = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            task, config = module.training(kind, Path(base))
            outcome = train(task, config, Path(run), resume=how == "resume")
            os._exit(0 if outcome.signal is None else 128 + outcome.signal)
        print("pid", pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print("code", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
