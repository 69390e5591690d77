"""What a new run begins with, and what the user is told before the progress bar."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from metronorm.checkpoints.checkpoint import FOLDER
from metronorm.checkpoints.folder import best_checkpoint, newest_checkpoint
from metronorm.files import shown_path
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.blocks import local, sum_dtype
from metronorm.text import size
from metronorm.train.config_changes import run_config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from metronorm.train.preparing import Preparation


def initial_weights(model: nn.Module, run: Path) -> None:
    """Give the model the best weights of a run.

    Raises:
        RunError: there is no run.
        CheckpointError: there is no whole checkpoint, or one of another model.
    """
    run_config(run)  # is it a run?
    folder = run / FOLDER
    found = best_checkpoint(folder) or newest_checkpoint(folder)
    found.load_model(model)


def say_what_starts(ready: Preparation, directory: Path) -> None:
    """Print to standard error what is about to run, before the progress bar."""
    step, config = ready.step, ready.step.config
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    epoch, beats = ready.beats.beats_per_epoch(), config.ticks * config.micro_batches
    passes = f", {beats / epoch:,.1f} passes over the data" if epoch else ""
    count = step.task.count(ready.trial) * config.micro_batches
    name = shlex.quote(shown_path(directory))
    lines = [
        f"run        {name}",
        f"device     {step.device}, {step.precision}, allocator {ready.allocator}",
        f"model      {parameters:,} parameters, {config.optimizer.name}",
        f"training   {config.ticks:,} ticks of {count:,} {step.task.unit}, "
        f"{config.ticks * count:,} in all{passes}",
        f"watch it   metronorm watch {name}",
    ]
    if ready.forecast:
        lines.insert(3, f"memory     {size(ready.forecast['memory_bytes'])} by forecast")
    if ready.world.size > 1:
        lines[2:2] = _processes(ready)
    if ready.ticks_done >= config.ticks:
        lines.append("done       all ticks; --ticks N makes more")
    tqdm.write("\n".join(lines), file=sys.stderr)


def _processes(ready: Preparation) -> list[str]:
    """How they share the training, and what clipping costs each of them."""
    config, optimizer = ready.step.config, ready.step.optimizer
    network = "nccl" if ready.step.device.type == "cuda" else "gloo"
    idle = ready.world.size - config.micro_batches
    few = f"; {idle} have nothing to do, as a tick has {config.micro_batches} micro-batches"
    lines = [
        f"processes  {ready.world.size} ({config.parallel}, {network}){few if idle > 0 else ''}"
    ]
    if config.optimizer.clip and isinstance(optimizer, Accumulator):
        separate = sum(
            local(each).numel() * sum_dtype(each).itemsize
            for group in optimizer.param_groups
            if group.get("method") != "adamw"  # which accumulates nothing
            for each in group["params"]
        )
        lines.append(
            f"clipping   keeps the gradient separate from the sum: {size(separate)} more on each"
        )
    return lines
