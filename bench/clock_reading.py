"""How long reading a run takes and how much disk it needs, once it is sealed.

A run of a million ticks, as of 20 ms each by a virtual clock: four phases and fifteen metrics, made
of normal numbers in single precision. It seals itself as it grows, as a real one would; what that
costs in processor time, in processes beside, is a row. Then, in fresh processes, the files in the
page cache: the first curve of one metric (in rows "first pyramid"), from `open_run` on and with the
imports. Bytes a tick are those of all the run's files, beside what trackers make of 20,000 ticks of
the same numbers, and no phases.

The run of 64 ranks is one of 100,000 ticks whose parts are copied 63 times: `summarize`, and the
command `metronorm show --no-charts`, each in a fresh process.

    python bench/clock_reading.py
"""

from __future__ import annotations

import functools
import itertools
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from _rows import append
from _trackers import TRACKERS
from _workers import Worker

from metronorm.clock import Clock

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator

    from _trackers import Tracker

TICKS, RANKS, RANK_TICKS, PEER_TICKS = 1_000_000, 64, 100_000, 20_000
REPEATS = 10
NAMES = ["loss", "tokens", "learning_rate", "gradient_norm", "accuracy"]
NAMES += [f"layer{number}_gradient_norm" for number in range(10)]
# the files that hold the numbers
PEERS = {
    "tensorboard SummaryWriter": "events.out.tfevents.*",
    "wandb offline": "wandb/*/*.wandb",
    "trackio": "*.db*",
    "lightning CSVLogger": "csv/*.csv",
}

CURVE = """
import time
begun = time.perf_counter()
import sys
import duckdb
from metronorm.runs import open_run
from metronorm.runs.curves import read_curve
imported = time.perf_counter()
assert read_curve(open_run(sys.argv[1]).ticks(), "loss").ticks
done = time.perf_counter()
print(done - imported, done - begun)
"""
SUMMARY = """
import time
import sys
import duckdb
from metronorm.runs import open_run
from metronorm.runs.summary import summarize
begun = time.perf_counter()
assert summarize(open_run(sys.argv[1])).ranks == int(sys.argv[2])
print(time.perf_counter() - begun)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        long_run(place / "long")
        shutil.rmtree(place / "long")
        sizes(place)
        many_ranks(place / "ranks")


def long_run(path: Path) -> None:
    case = f"{TICKS:,} ticks of {len(NAMES)} metrics"
    sealed, seconds = write(path, TICKS)
    if sealed:
        append(
            "clock_reading", f"{case}, sealing, processor per tick", "us", [seconds / sealed * 1e6]
        )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    append("clock_reading", f"{case}, on disk, metronorm", "bytes/tick", [size / TICKS])
    rows = [run(sys.executable, "-c", CURVE, str(path)) for _ in range(REPEATS + 1)][1:]
    for what, times in zip(("", " with imports"), zip(*rows, strict=True), strict=True):
        append("clock_reading", f"{case}, first pyramid{what}", "ms", [s * 1e3 for s in times])


def many_ranks(path: Path) -> None:
    write(path, RANK_TICKS)
    for kind in ("ticks", "events", "resources"):
        first = path / kind / "attempt=0" / "rank=0"
        for rank in range(1, RANKS):
            shutil.copytree(first, first.with_name(f"rank={rank}"))
    case = f"{RANKS} ranks of {RANK_TICKS:,} ticks"
    command = [sys.executable, "-c", SUMMARY, str(path), str(RANKS)]
    times = [run(*command)[0] for _ in range(REPEATS + 1)][1:]
    append("clock_reading", f"{case}, summarize", "s", times)
    show = [str(Path(sys.executable).with_name("metronorm")), "show", str(path), "--no-charts"]
    whole = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run(show, check=True, stdout=subprocess.DEVNULL)
        whole.append(time.perf_counter() - begun)
    append("clock_reading", f"{case}, metronorm show --no-charts", "s", whole)


def run(*command: str) -> list[float]:
    """The numbers that a fresh process prints."""
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(word) for word in printed.split()]


# --- what is read -------------------------------------------------------------------------------


def write(path: Path, ticks: int) -> tuple[int, float]:
    """Make a run; of how many ticks parts were made beside, and in how much processor time."""
    before = children_seconds()
    with Clock(path, progress=False, now=virtual_time(), budget=1e9, stall=None) as clock:
        folder = next(path.glob("ticks/*/*"))
        for metrics in clock.ticks(itertools.islice(numbers(), ticks)):
            for phase in ("forward", "backward", "update"):
                with clock.phase(phase):
                    pass
            clock.log(**metrics)
            # a tick of 20 ms leaves all the time to seal
            while clock.tick % 1000 == 0 and any(folder.glob("_part-*.jsonl")):
                time.sleep(0.01)
        beside = list(folder.glob("part-*.parquet"))
        if clock.dropped:
            raise RuntimeError(f"{clock.dropped} ticks were dropped")
    if not beside:
        return 0, 0.0
    files = [str(part) for part in beside]
    query = f"select count(*) from read_parquet({files})"
    ((sealed,),) = duckdb.execute(query).fetchall()
    return int(sealed), children_seconds() - before


def virtual_time() -> Callable[[], int]:
    """Nanoseconds that pass by being asked for: about 2 ms each time."""
    import numpy as np

    steps = np.random.default_rng(0).integers(1_500_000, 2_500_000, 10_007).tolist()
    return itertools.accumulate(itertools.cycle(steps)).__next__


def numbers() -> Iterator[dict[str, float]]:
    import numpy as np

    chance = np.random.default_rng(0)
    while True:
        for row in chance.standard_normal((1000, len(NAMES)), dtype=np.float32).tolist():
            yield dict(zip(NAMES, row, strict=True))


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# --- peers --------------------------------------------------------------------------------------


def sizes(place: Path) -> None:
    for name, files in PEERS.items():
        folder = place / name.replace(" ", "-")
        worker = Worker(functools.partial(tracked, TRACKERS[name]), folder)
        worker.ask(PEER_TICKS)
        worker.close()
        size = sum(file.stat().st_size for file in folder.glob(files))
        case = f"{PEER_TICKS:,} ticks of {len(NAMES)} metrics, on disk, {name}"
        append("clock_reading", case, "bytes/tick", [size / PEER_TICKS])


def tracked(tracker: Tracker, folder: Path, stack: contextlib.ExitStack) -> Callable[[int], None]:
    record = tracker(folder, stack)

    def go(ticks: int) -> None:
        for step, metrics in enumerate(itertools.islice(numbers(), ticks), 1):
            record(step, metrics)

    return go


if __name__ == "__main__":
    main()
