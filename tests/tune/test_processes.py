"""Several processes work on one study, and are killed: no trial is lost, and none runs twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metronorm.runs import open_run
from metronorm.tune import open_study
from metronorm.tune.claiming import claim

from .studies import begun

ROOT = Path(__file__).parents[2]


def begin(study: Path, budget: str) -> subprocess.Popen[bytes]:
    """A process that works on a study."""
    words = [sys.executable, "-m", "tests.tune.studies", str(study), budget]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)


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
    """Three at once; one is killed at a random moment and another begun, again and again."""
    study = begun(tmp_path / "study", seeds=1)
    chance = random.Random(0)
    running = [begin(study.directory, "25runs") for _ in range(3)]
    kills = 0
    deadline = time.monotonic() + 200
    while kills < 6 and time.monotonic() < deadline:
        running[0].wait(timeout=0) if running[0].poll() is not None else None
        done = len(study.known())
        while len(study.known()) < done + 2 and any(one.poll() is None for one in running):
            time.sleep(chance.uniform(0.01, 0.1))
        victim = running.pop(0)
        victim.kill()
        if victim.wait() == -signal.SIGKILL:
            kills += 1
        running.append(begin(study.directory, "25runs"))
        if all(each.result for each in study.known()) and len(study.known()) == 25:
            break
    assert [one.wait() for one in running] == [0] * len(running)
    assert kills >= 3, "too few kills met a process at work"
    known = open_study(study.directory).known()
    assert [each.trial.number for each in known] == list(range(25))
    for each in known:
        assert each.result is not None
        assert each.result.status == "done"
        run = open_run(study.run(each.trial.number))
        assert run.ticks().rows()[-1]["tick"] == 20  # whole, and once
        # a tick that was made twice was lost with its process: never by two that live
        assert len(run.attempts) <= 1 + kills
    points = [tuple(sorted((each.trial.point or {}).items())) for each in known]
    assert len(set(points)) == len(points)
    claims = [claim(study, each.trial.number) for each in known]
    assert all(claims)  # nobody is left
    for held in claims:
        if held:
            held.release()
