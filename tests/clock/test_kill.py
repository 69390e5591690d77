"""SIGKILL at random instants loses no finished tick and doubles none."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.runs import open_run
from metronorm.store import ring as rings
from metronorm.store.sealing import seal_run

from ..store.stores import numbers

KILLS = 60

# forks a training for each line: a run's path, bytes of a stretch, seconds between two writes
ZYGOTE = """
import os, sys
from pathlib import Path
from metronorm.clock import Clock
from metronorm.store import ring, writer

ring.shared_folder = lambda: Path(sys.argv[1])


def report(what):
    os.write(1, f"{what}\\n".encode())  # at once: no kill cuts a line


def train(run):
    with Clock(run, progress=False) as clock:
        for _ in clock.ticks(iter(int, 1)):
            if clock.tick > 1:
                # recorded before it is reported: all these ticks must be found afterwards
                report(clock.tick - 1)
            with clock.phase("forward"):
                clock.log(loss=1.0 / clock.tick, tokens=12_288, note=float("nan"))


for line in sys.stdin:
    run, stretch, period = line.rsplit(maxsplit=2)
    child = os.fork()
    if child == 0:
        writer.STRETCH_BYTES, writer.PERIOD_SECONDS = int(stretch), float(period)
        train(run)
    report(f"pid {child}")
    os.waitpid(child, 0)
    report("dead")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_finished_tick_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(rings, "shared_folder", lambda: shared)
    chance = random.Random(0)
    finished: dict[Path, int] = {}
    from_memory = long = 0
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE, str(shared)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        for kill in range(KILLS):
            run = tmp_path / f"run-{kill}"
            zygote.stdin.write(f"{run} {chance.choice(('200000 0.001', '8388608 0.25'))}\n")
            lines = [zygote.stdout.readline() for _ in range(2)]
            process = next(int(line.split()[1]) for line in lines if line.startswith("pid"))
            lines += [
                zygote.stdout.readline()
                for _ in range(chance.randrange(chance.choice((10, 400, 12_000))))
            ]
            for _ in range(chance.randrange(2_000)):
                pass  # somewhere inside a tick, not always at its report
            assert "dead\n" not in lines
            os.kill(process, signal.SIGKILL)
            while lines[-1] != "dead\n":
                lines.append(zygote.stdout.readline())
            read = open_run(run)
            ticks = numbers(read)
            assert ticks == list(range(1, len(ticks) + 1)), "a tick is missing or there twice"
            assert len(ticks) >= max(int(line) for line in lines if line[0].isdigit())
            assert read.notices() == []
            finished[run] = len(ticks)
            from_memory += (shared / f"metronorm-{read.info.id}-ticks-0-0").exists()
            long += bool(list(run.glob("ticks/*/*/*part-*")))
            if kill % 2:
                seal_run(run)
                assert numbers(run) == ticks
            # else the next training finds what is in memory, and puts it on the tape
        zygote.stdin.close()
    assert from_memory == KILLS
    assert long > 0, "stretches were finished and sealed meanwhile"
    for run, ticks in finished.items():
        assert len(numbers(run)) == ticks
        seal_run(run)
        assert numbers(run) == list(range(1, ticks + 1))
        assert open_run(run).notices() == []
    assert list(shared.iterdir()) == []
