"""`run.samples()`: what a run left to look at, over its effective history, also after a kill."""

import io
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metronorm.clock import Clock
from metronorm.errors import RunError
from metronorm.runs import Sample, open_run, summarize
from metronorm.store.sealing import seal_run

KILLS = 20


def attempt(run: Path, first: int, last: int) -> None:
    """Keep a text in each of these ticks."""
    with Clock(run, resume=first > 1 or run.exists(), progress=False) as clock:
        for number in clock.ticks(range(first, last + 1), initial=first - 1):
            clock.sample("text", f"{number} of attempt {clock.attempt}")


def texts(samples: list[Sample]) -> list[str]:
    return [sample.read().decode() for sample in samples]


def test_the_effective_history(tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempt(run, 1, 4)
    attempt(run, 3, 5)
    effective = [f"{tick} of attempt {0 if tick < 3 else 1}" for tick in range(1, 6)]
    assert texts(open_run(run).samples()) == effective
    assert [(one.tick, one.attempt) for one in open_run(run).samples("full")] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (3, 1),
        (4, 0),
        (4, 1),
        (5, 1),
    ]
    assert summarize(open_run(run)).samples == 5
    seal_run(run)
    assert texts(open_run(run).samples()) == effective


def test_dropped_samples_are_a_notice(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(3)):
            clock.sample("it", np.zeros((3000, 3000), np.uint8))
    assert summarize(open_run(tmp_path / "run")).notices == [
        "attempt 0, rank 0: 3 samples were not kept, the last in tick 3: a picture has at most "
        "4 MiB of 8-bit pixels"
    ]


def test_text_that_older_versions_kept_in_its_event(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(1)):
            clock.event("sample", text="to be")
    (sample,) = open_run(tmp_path / "run").samples()
    assert (sample.name, sample.kind, sample.path, sample.tick) == ("text", "text", None, 1)
    assert sample.read() == b"to be"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../../etc/passwd",
        "samples/attempt=0/rank=0/tick=0/..",
        "samples/attempt=0/rank=0/tick=0/.hidden",
        "samples/attempt=0/rank=0/tick=0/a\0",
        "",
        3,
    ],
)
def test_events_of_others_lead_nowhere_else(tmp_path: Path, path: str) -> None:
    run = tmp_path / "run"
    with Clock(run, progress=False) as clock:
        clock.event("sample", name="it", kind="text", path=path)
        clock.event("sample", name="it", kind="program", path="samples/it.exe")
        clock.event("sample", loss=3)
    for sample in open_run(run).samples():
        assert sample.path is not None
        assert sample.path.parent == run / "samples/attempt=0/rank=0/tick=0"
        with pytest.raises(RunError, match="the file of a sample must be readable"):
            sample.read()


def test_a_file_that_was_removed(tmp_path: Path) -> None:
    attempt(tmp_path / "run", 1, 1)
    (sample,) = open_run(tmp_path / "run").samples()
    assert sample.path is not None
    sample.path.unlink()
    with pytest.raises(RunError, match=r"text\.txt: No such file"):
        sample.read()


def test_a_run_without_samples(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(2)))
    assert open_run(tmp_path / "run").samples() == []


# forks a training for each line, which is a run's path; keeps a picture of its number each tick
ZYGOTE = """
import os, sys
import numpy as np
from metronorm.clock import Clock, sample_writer

sample_writer.PERIOD_SECONDS = 0.001

def train(run):
    with Clock(run, progress=False) as clock:
        for _ in clock.ticks(iter(int, 1)):
            clock.sample("picture", np.full((64, 64), clock.tick % 256, np.uint8))
            os.write(1, b"tick\\n")

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        train(line.strip())
    os.write(1, f"pid {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def test_a_sample_on_record_has_its_file_whole_after_a_kill(tmp_path: Path) -> None:
    chance = random.Random(0)
    kept = 0
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as zygote:
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        for number in range(KILLS):
            run = tmp_path / f"run-{number}"
            zygote.stdin.write(f"{run}\n")
            lines = [zygote.stdout.readline() for _ in range(2 + chance.randrange(4_000))]
            process = next(int(line.split()[1]) for line in lines if line.startswith("pid"))
            os.kill(process, signal.SIGKILL)
            while lines[-1] != "dead\n":
                lines.append(zygote.stdout.readline())
            kept += check(run)
        zygote.stdin.close()
    assert kept > 0


def check(run: Path) -> int:
    """Check all files on record, and return their number."""
    samples = open_run(run).samples()
    for sample in samples:
        with Image.open(io.BytesIO(sample.read())) as picture:
            found = np.asarray(picture)
        assert np.array_equal(found, np.full((64, 64), sample.tick % 256))
    files = [path for path in run.glob("samples/*/*/*/*") if not path.name.startswith(".")]
    assert len(samples) <= len(files) <= len(samples) + 1, "a file may be there before its event"
    return len(samples)


def test_what_a_kill_left_is_removed_by_the_next_attempt(tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempt(run, 1, 2)
    with subprocess.Popen(["true"]) as dead:
        pass
    samples = open_run(run).samples()
    assert samples[0].path is not None
    left = samples[0].path.parent / f".text.txt.{os.uname().nodename}.{dead.pid}.0.tmp"
    left.write_bytes(b"half")
    attempt(run, 3, 3)
    assert not left.exists()
    assert len(open_run(run).samples()) == 3
