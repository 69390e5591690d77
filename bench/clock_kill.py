"""Ticks that are lost when a training process is killed: SIGKILL at random instants.

A child of fork trains a tiny model in torch and records five metrics a tick; after a tick has ended
it says so in a pipe. Up to a few seconds after its first tick it is killed. Then what is really on
disk is read: with `open_run`, or with what the peer itself reads its files with. A tick that was
reported and is not there is lost. (That of the clock which a dead process leaves in shared memory
outlives it, though not the machine.)

Children of the clock train as fast as they can: a thousand are killed, each within half a second.
Those of the peers wait 5 ms a tick, as a small model on a GPU would take, and are killed within
2.5 s: what is written every so often is lost since then. W&B's process beside may write what it has
before its file is read. (Lightning's Trainer has its logger write whenever it logs.)

    python bench/clock_kill.py
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import importlib
import itertools
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from _rows import append
from _tracker_files import STEPS_ON_DISK
from _trackers import METRICS, TRACKERS
from _workers import Worker, end_all

from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.store.sealing import recover_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from _trackers import Tracker

    Step = Callable[[], Any]  # of the training: its loss
    Report = Callable[[int], object]
    Train = Callable[[Path, Report], None]  # for ever

OURS = "metronorm Clock"
KILLS = {
    OURS: 1000,
    "tensorboard SummaryWriter": 100,
    "trackio": 100,
    "wandb offline": 20,
    "aim": 20,
    "mlflow sqlite": 20,
    "lightning CSVLogger": 100,
}
MODULES = {
    "tensorboard SummaryWriter": "torch.utils.tensorboard",
    "trackio": "trackio",
    "wandb offline": "wandb",
    "aim": "aim",
    "mlflow sqlite": "mlflow.store.tracking.sqlalchemy_store",
    "lightning CSVLogger": "lightning.pytorch.loggers",
}
AT_ONCE = 5
SECONDS, OUR_SECONDS = 2.5, 0.5  # the longest life after the first tick
PEER_TICK_SECONDS = 0.005

_PR_SET_PDEATHSIG = 1


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    chance = random.Random(0)
    for name, kills in KILLS.items():
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            place = Path(folder)
            os.environ["TRACKIO_DIR"] = str(place / "trackio")
            worker = Worker(functools.partial(nursery, name), place / "worker")
            stack.callback(worker.close)
            longest = OUR_SECONDS if name == OURS else SECONDS
            lost: list[float] = []
            twice = reported = 0
            numbers = iter(range(kills))
            while batch := list(itertools.islice(numbers, AT_ONCE)):
                runs = [place / f"run{number}" for number in batch]
                lives = [chance.uniform(0.0, longest) for _ in runs]
                for run, count in zip(runs, worker.ask(runs, lives), strict=True):
                    there = collections.Counter(steps_on_disk(name, run))
                    lost.append(sum(step not in there for step in range(1, count + 1)))
                    twice += sum(times > 1 for times in there.values())
                    reported += count
        append("clock_kill", f"{name}, lost ticks per kill", "ticks", lost)
        case = f"{name}, lost in {kills} kills, of {reported} reported ticks"
        append("clock_kill", case, "ticks", [sum(lost)])
        append("clock_kill", f"{name}, there twice after {kills} kills", "ticks", [twice])
    recover_all()  # removes the shared memory of runs that are gone


def steps_on_disk(name: str, folder: Path) -> Sequence[int]:
    if name != OURS:
        return STEPS_ON_DISK[name](folder)
    if not (folder / "run.json").exists():
        return []
    return [tick for (tick,) in open_run(folder).ticks().sql("select tick from ticks").fetchall()]


# --- what runs in the worker --------------------------------------------------------------------


def nursery(name: str, folder: Path, stack: contextlib.ExitStack) -> Callable[..., list[int]]:
    """A process that has imported everything, and whose children are killed."""
    import torch

    torch.set_num_threads(1)
    step = training()
    if name == OURS:
        train: Train = functools.partial(with_clock, step)
    else:
        train = functools.partial(with_tracker, step, TRACKERS[name])
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        importlib.import_module(MODULES[name])
    return lambda runs, lives: kill(train, runs, lives)


def kill(train: Train, folders: list[Path], lives: list[float]) -> list[int]:
    """Children that are killed when they have lived so long; how many ticks each has reported."""
    children = [begin(train, folder) for folder in folders]
    for _, pipe in children:  # the first tick
        if not os.read(pipe, 1):
            raise RuntimeError("a child died by itself")  # and now the others die, too
    born = time.perf_counter()
    families = []
    for life, (process, _) in sorted(zip(lives, children, strict=True)):
        time.sleep(max(0.0, born + life - time.perf_counter()))
        families += psutil.Process(process).children(recursive=True)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    end_all(families)
    return [1 + drain(pipe) for _, pipe in children]


def begin(train: Train, folder: Path) -> tuple[int, int]:
    """A child that trains in a folder, and the pipe that gets a byte for each of its ticks."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        folder.mkdir(parents=True)
        os.chdir(folder)
        train(folder, lambda step: os.write(writing, b"."))
    finally:
        os._exit(1)


def drain(pipe: int) -> int:
    with os.fdopen(pipe, "rb") as file:
        return len(file.read())


def with_clock(step: Step, folder: Path, report: Report) -> None:
    def batches() -> Iterator[int]:
        for tick in itertools.count():
            if tick:  # whoever wants another batch has done with the last one
                report(tick)
            yield tick

    with Clock(folder, progress=False) as clock:
        for _ in clock.ticks(batches()):
            with clock.phase("forward"):
                loss = step()
            clock.log(**METRICS | {"loss": loss})


def with_tracker(step: Step, tracker: Tracker, folder: Path, report: Report) -> None:
    with contextlib.ExitStack() as stack:
        record = tracker(folder, stack)
        for tick in itertools.count(1):
            loss = step()
            time.sleep(PEER_TICK_SECONDS)
            record(tick, METRICS | {"loss": float(loss)})
            report(tick)


def training() -> Step:
    """One step of something small."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(32, 8)

    def step() -> torch.Tensor:
        loss: torch.Tensor = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


if __name__ == "__main__":
    main()
