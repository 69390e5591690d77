"""SIGKILL at random instants loses no finished tick and doubles none."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.clock import open_run

KILLS = 200

CHILD = """
import sys
from metronorm.clock import Clock

with Clock(sys.argv[1], progress=False) as clock:
    for _ in clock.ticks(iter(int, 1)):
        if clock.tick > 1:
            # on the record before it is told: so much must be found afterwards
            print(clock.tick - 1, flush=True)
        with clock.phase("forward"):
            clock.log(loss=1.0 / clock.tick, tokens=12_288, note=float("nan"))
"""


@pytest.mark.slow
def test_no_finished_tick_is_lost(tmp_path: Path) -> None:
    chance = random.Random(0)
    for kill in range(KILLS):
        run = tmp_path / f"run-{kill}"
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(run)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(chance.randrange(1, 400))]
        for _ in range(chance.randrange(2_000)):
            pass  # somewhere inside a tick, not always at its report
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        run_read = open_run(run)
        ticks = [row["tick"] for row in run_read.ticks("full").rows()]
        assert ticks == list(range(1, len(ticks) + 1)), "a tick is missing or there twice"
        assert len(ticks) >= max(int(line) for line in told if line.endswith("\n"))
        # the kernel may leave a write half done at a page's border; that tick was not finished
        assert all("the last line is torn" in notice for notice in run_read.notices())
