"""What a training would take, found by making a few ticks of it that are thrown away."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from metronorm.clock import Clock
from metronorm.memory import explaining_out_of_memory, peak_bytes
from metronorm.planning.live_bytes import beat_bytes
from metronorm.planning.predicting import Prediction, predict
from metronorm.train.optimizers import check_processes
from metronorm.train.preparing import Preparation, made

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.train.config import TrainConfig
    from metronorm.train.task import Task

_TICKS = 4  # of which the first is not counted: it builds kernels and optimizer state


@dataclass(frozen=True)
class Plan:
    """What a training would be, and take.

    Attributes:
        parameters: numbers in the model.
        device: it would run on, such as `cpu`.
        precision: of its matrix products.
        unit: what is counted, in the plural.
        per_tick: how many of it a tick takes.
        ticks: in all.
        passes: over the data; None where its size is not known.
        seconds_per_tick: median of the probed ticks, which one process has made; evaluations and
            checkpoints come on top.
        memory_bytes: the largest this process has held on the device while probing.
        forecast_bytes: the most that the process will hold; None where the task does not foresee.
        prediction: what each of the asked number of processes would hold and send.
    """

    parameters: int
    device: str
    precision: str
    unit: str
    per_tick: int
    ticks: int
    passes: float | None
    seconds_per_tick: float
    memory_bytes: int
    forecast_bytes: int | None
    prediction: Prediction

    @property
    def seconds(self) -> float:
        """Of all ticks together."""
        return self.ticks * self.seconds_per_tick


def plan(task: Task | Callable[[Any], Task], config: TrainConfig, *, processes: int = 1) -> Plan:
    """Make a few ticks of a training and say what all of it would take. No run is made.

    This process makes them alone, and starts no others. Hooks are not called. The batches that
    these ticks take from an iterator are gone.

    Args:
        task: what to train.
        config: how.
        processes: how many would train together.

    Raises:
        MetronormError: what `train` would raise before or at its first tick.
    """
    check_processes(config.optimizer, processes)
    with explaining_out_of_memory(resume=False):
        whole, config = made(task, config)
        ready = Preparation(whole, config)
        config = ready.step.config
        step, seconds = ready.step, []
        with (
            tempfile.TemporaryDirectory() as folder,
            Clock(Path(folder) / "run", progress=False, stall=None) as clock,
        ):
            begin = time.perf_counter()
            for window in clock.ticks(ready.windows(), total=min(_TICKS, config.ticks)):
                step.tick(clock, window)
                ready.averages.update(clock.tick)
                _wait(step.device)
                seconds.append(time.perf_counter() - begin)
                begin = time.perf_counter()
        memory = _peak_bytes(step.device)
        activations = beat_bytes(step, ready.trial)
        size = ready.beats.beats_per_epoch()
        tick, ticks = statistics.median(seconds[1:] or seconds), config.ticks
        if config.minutes:
            ticks = max(1, math.floor(config.minutes * 60 / tick))
        return Plan(
            parameters=sum(parameter.numel() for parameter in step.model.parameters()),
            device=str(step.device),
            precision=step.precision,
            unit=whole.unit,
            per_tick=whole.count(ready.trial) * config.micro_batches,
            ticks=ticks,
            passes=ticks * config.micro_batches / size if size else None,
            seconds_per_tick=tick,
            memory_bytes=memory,
            forecast_bytes=ready.forecast["memory_bytes"] if ready.forecast else None,
            prediction=predict(step, ready.averages, activations, processes),
        )


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()
