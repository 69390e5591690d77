"""Several processes work on one study, and are killed: no trial is lost, and none runs twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from metronorm.runs import open_run
from metronorm.tune import open_study
from metronorm.tune.claiming import claim

from .studies import begun

ROOT = Path(__file__).parents[2]


class Workers:
    """Processes that work on a study; to be used by `with`."""

    def __init__(self, study: Path, budget: str) -> None:
        words = [sys.executable, "-m", "tests.tune.studies", str(study), budget]
        self._process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def begin(self) -> psutil.Process:
        """One more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("begin", file=self._process.stdin, flush=True)
        return psutil.Process(int(self._process.stdout.readline()))


def is_at_work(process: psutil.Process) -> bool:
    """Whether it has not ended; nobody has asked for its exit code yet."""
    return process.status() != psutil.STATUS_ZOMBIE


def test_a_claim_is_of_one_process_and_ends_with_it(tmp_path: Path) -> None:
    study = begun(tmp_path / "study")
    held = claim(study, 0)
    assert held is not None
    assert claim(study, 0) is None
    child = os.fork()
    if child == 0:
        os._exit(0 if claim(study, 0) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    held.release()
    child = os.fork()
    if child == 0:
        kept = claim(study, 0)
        os.kill(os.getpid(), signal.SIGKILL if kept else signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    again = claim(study, 0)  # the kernel has let go of it
    assert again is not None
    again.release()


@pytest.mark.slow
def test_processes_that_are_killed_lose_no_trial(tmp_path: Path) -> None:
    """Three at once; again and again one is killed at a random moment and another one begun."""
    study = begun(tmp_path / "study", seeds=1)
    chance, kills, trials = random.Random(0), 0, 14
    with Workers(study.directory, f"{trials}runs") as workers:
        running = [workers.begin() for _ in range(3)]
        while any(map(is_at_work, running)):
            known = len(study.known())
            while len(study.known()) == known and any(map(is_at_work, running)):
                time.sleep(chance.uniform(0.01, 0.2))  # real processes take their time
            if kills < 8 and is_at_work(running[0]):
                running.pop(0).kill()
                kills += 1
                running.append(workers.begin())
    assert kills >= 4, "too few kills met a process at work"
    known = open_study(study.directory).known()
    assert [each.trial.number for each in known] == list(range(trials))
    gone_on = 0
    for each in known:
        assert each.result is not None
        assert each.result.status == "done"
        run = open_run(study.run(each.trial.number))
        assert run.ticks().rows()[-1]["tick"] == 20
        gone_on += len(run.attempts) - 1
    assert gone_on <= kills  # every other attempt was killed: no two processes had one trial
    points = {str(each.trial.point) for each in known}
    assert len(points) == trials
    for each in known:  # nobody is left
        held = claim(study, each.trial.number)
        assert held is not None
        held.release()
