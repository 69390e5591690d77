"""A recipe whose ranks come to harm: the task of `world_task.py`, and a fault of `FAULT`.

`FAULT` is JSON: the rank, the tick, the phase that it begins, and the kind of a fault; `once` is a
file that the fault makes, so that it does not happen again after a restart.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.train import Hook, Task
from metronorm.train.world import World
from tests.train.world_task import Config, config_of
from tests.train.world_task import task as plain_task

__all__ = ["Config", "task"]


def task(config: Config) -> Task:
    """The task, a little slower than it is."""
    if fault := os.environ.get("FAULT"):
        _plant(**json.loads(fault))
    pause = float(os.environ.get("PAUSE", "0.01"))
    return replace(plain_task(config), hooks=[Hook(1, lambda _: time.sleep(pause))])


def _plant(rank: int, tick: int, phase: str, kind: str, once: str) -> None:
    at, within = World.at, World.phase

    def strike(world: World, here: int, name: str) -> None:
        if (world.rank, here, name) == (rank, tick, phase) and not Path(once).exists():
            Path(once).write_text(str(time.time()))
            _strike(kind)

    def watched_at(self: World, tick: int, phase: str) -> None:
        at(self, tick, phase)
        strike(self, tick, phase)

    def watched_phase(self: World, clock: Any, name: str) -> Any:
        found = within(self, clock, name)
        strike(self, clock.tick, name)
        return found

    World.at, World.phase = watched_at, watched_phase  # type: ignore[method-assign]


def _strike(kind: str) -> None:
    if kind == "raise":
        raise ValueError("the rank is harmed")
    if kind == "memory":
        raise MemoryError("no room for 12 GiB")
    os.kill(os.getpid(), signal.Signals[kind])


def options() -> list[str]:
    """Of the command, for the config of `world_task.py`."""
    config = config_of()
    return [
        "--recipe", __file__, "--ticks", str(config.ticks), "--batch-size", "5",
        "--micro-batches", "4", "--precision", "fp32", "--allocator", "system", "--device", "cpu",
        "--optimizer.learning-rate", "1e-2", "--optimizer.schedule", "constant",
    ]  # fmt: skip
