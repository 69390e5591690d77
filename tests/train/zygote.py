"""A process that has torch loaded and forks a training for every line it reads: RUN new|resume.

It answers `pid N`, then, when the training has ended, `code N`. It never computes itself, so no
thread pool is there to be broken by the fork.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.tasks import text
from metronorm.train import train
from tests.train.tiny import tiny_config


def main() -> None:
    base = Path(sys.argv[1])
    config = tiny_config(base, **eval(sys.argv[2]))
    for line in sys.stdin:
        run, how = line.split()
        pid = os.fork()
        if pid == 0:
            outcome = train(text.task, config, Path(run), resume=how == "resume")
            os._exit(0 if outcome.signal is None else 128 + outcome.signal)
        print("pid", pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print("code", os.waitstatus_to_exitcode(status), flush=True)


main()
