"""A recipe whose ranks come to harm: the task of `world_task.py`, and a fault of `FAULT`.

`FAULT` is JSON: the rank (-1: all), the tick, the phase that it begins, and the kind of a fault;
`once` is a file that the fault makes. In phase "prepare" nothing comes after it. `BUG` plants an
error into the library itself, for which the judge of the faults must turn red.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.checkpoints import writing
from metronorm.train import Hook, Task, saving
from metronorm.train.beats import OrderedBeats
from metronorm.train.world import World
from tests.train.world_task import Config
from tests.train.world_task import task as plain_task

__all__ = ["Config", "task"]

BATCH = 5
LINK = "link0"  # between two machines


def task(config: Config) -> Task:
    """The task, a little slower than it is."""
    if fault := os.environ.get("FAULT"):
        _plant(**json.loads(fault))
    if bug := os.environ.get("BUG"):
        _plant_bug(bug)
    pause = float(os.environ.get("PAUSE", "0.01"))
    whole = plain_task(config)
    return replace(whole, hooks=[*whole.hooks, Hook(1, lambda _: time.sleep(pause))])


def _plant(rank: int, tick: int, phase: str, kind: str, once: str) -> None:
    at, within = World.at, World.phase

    def strike(mine: int, here: int, name: str) -> bool:
        mark = Path(f"{once}-{mine}")
        if rank not in (mine, -1) or (here, name) != (tick, phase) or mark.exists():
            return False
        mark.write_text(str(time.time()))
        _strike(kind)
        return True

    if strike(int(os.environ["RANK"]), 0, "prepare"):
        signal.pause()

    def watched_at(self: World, tick: int, phase: str) -> None:
        at(self, tick, phase)
        strike(self.rank, tick, phase)

    def watched_phase(self: World, clock: Any, name: str) -> Any:
        found = within(self, clock, name)
        strike(self.rank, clock.tick, name)
        return found

    World.at, World.phase = watched_at, watched_phase  # type: ignore[method-assign]


def _strike(kind: str) -> None:
    if kind == "raise":
        raise ValueError("the rank is harmed")
    if kind == "memory":
        raise MemoryError("no room for 12 GiB")
    if kind == "full disk":
        _fill_disk()
        return
    if kind == "cut link":
        subprocess.run(["ip", "link", "set", LINK, "down"], check=True)
        return
    name, _, whose = kind.partition(" of ")
    if whose in ("launcher", "machine"):
        os.kill(os.getppid(), signal.Signals[name])
        if whose == "launcher":
            return
    os.kill(os.getpid(), signal.Signals[name])


def _fill_disk() -> None:
    """The next file that this rank has written finds no room."""
    sync = writing.sync

    def full(path: Path) -> None:
        writing.sync = sync
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writing.sync = full


def _plant_bug(name: str) -> None:
    if name == "a beat done twice":  # the last one before the checkpoint, after a resume
        load = OrderedBeats.load_state_dict

        def earlier(self: OrderedBeats, state: Any) -> None:
            load(self, state)
            self.consumed -= BATCH

        OrderedBeats.load_state_dict = earlier  # type: ignore[method-assign]
    elif name == "a stale shard":  # the last rank saves what it held at the checkpoint before
        take = saving.take
        before: list[dict[str, Any]] = []

        def stale(**arguments: Any) -> Any:
            taken, world = take(**arguments), arguments["world"]
            before.append({name: part.local.clone() for name, part in taken.model.items()})
            if world.rank < world.size - 1 or len(before) == 1:
                return taken
            parts = {
                name: part._replace(local=before[-2][name]) for name, part in taken.model.items()
            }
            return replace(taken, model=parts)

        saving.take = stale
    else:
        raise ValueError(name)


def options(**changes: str) -> list[str]:
    """Of the command, for the task of `world_task.py`."""
    values = {
        "recipe": __file__,
        "ticks": "6",
        "batch-size": str(BATCH),
        "micro-batches": "4",
        "precision": "fp32",
        "allocator": "system",
        "device": "cpu",
        "optimizer.learning-rate": "1e-2",
        "optimizer.schedule": "constant",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return [word for name, value in values.items() for word in (f"--{name}", value)]
