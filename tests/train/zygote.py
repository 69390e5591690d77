"""A process that has torch loaded and forks a training for every line it reads: RUN new|resume.

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
    module, kind, base = sys.argv[1:]
    task, config = importlib.import_module(module).training(kind, Path(base))
    for line in sys.stdin:
        run, how = line.split()
        pid = os.fork()
        if pid == 0:
            outcome = train(task, config, Path(run), resume=how == "resume")
            os._exit(0 if outcome.signal is None else 128 + outcome.signal)
        print("pid", pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print("code", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
