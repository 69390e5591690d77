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
    torn = 0
    for kill in range(KILLS):
        run = tmp_path / f"run-{kill}"
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(run)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(chance.randrange(1, 400)):
            child.stdout.readline()
        for _ in range(chance.randrange(2_000)):
            pass  # somewhere inside a tick, not always at its report
        os.kill(child.pid, signal.SIGKILL)
        told = child.stdout.read().split()
        child.wait()
        child.stdout.close()
        reader = open_run(run)
        ticks = [row["tick"] for row in reader.ticks("full").rows()]
        assert ticks == list(range(1, len(ticks) + 1)), "a tick is missing or there twice"
        if told and told[-1].isdigit():
            assert len(ticks) >= int(told[-1])
        torn += len(reader.notices())
        summary = reader.ticks().sql("select count(*), count(distinct tick) from ticks")
        assert summary.fetchall() == [(len(ticks), len(ticks))]
    assert torn == 0, "one write(2) per line: a killed process leaves whole lines"
