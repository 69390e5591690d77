"""Before the first tick: a task and its config become a model, an optimizer and beats."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from metronorm.allocator import keep_large_blocks
from metronorm.errors import ConfigError
from metronorm.train import precision
from metronorm.train.averages import Averages
from metronorm.train.batches import to_device
from metronorm.train.beats import IteratedBeats, make_beats
from metronorm.train.convolutions import Checked, check_convolutions
from metronorm.train.evaluate import evaluating
from metronorm.train.first_beat import check_batch
from metronorm.train.parallel import check_whole, keep_activations, layers_of, recompute
from metronorm.train.rank_beats import rank_windows
from metronorm.train.resuming import check_same_data
from metronorm.train.starting import initial_weights
from metronorm.train.step import Step
from metronorm.train.task import Task
from metronorm.train.task_checks import (
    check_measures,
    check_state,
    check_task,
    warn_of_single_examples,
)
from metronorm.train.time_budget import check_time
from metronorm.train.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.optim import Window
    from metronorm.train.config import TrainConfig
    from metronorm.train.precision import Fixed
    from metronorm.train.rank_beats import Beat

_log = logging.getLogger("metronorm")

Config = TypeVar("Config", bound="TrainConfig")


def made(task: Any, config: Config) -> tuple[Task, Config]:
    """The task, and the config with what its data decided.

    Raises:
        ConfigError: the function makes no task.
        DataError: the data is not what the config names.
    """
    whole = task if isinstance(task, Task) else task(config)
    if not isinstance(whole, Task):
        raise ConfigError(
            "task(config) must return a Task",
            got=f"a {type(whole).__name__}",
            fix="return Task(...)",
        )
    asked = config.data_id
    config = config if whole.config is None else whole.config
    data_id = whole.data_id or getattr(whole.batches, "data_id", None) or ""
    check_same_data(asked, data_id)
    return whole, replace(config, data_id=data_id)


def _model(task: Task) -> nn.Module:
    model = task.model()
    if not isinstance(model, nn.Module):
        raise ConfigError(
            "a task's model must be a function that makes the model",
            got=f"one that returns a {type(model).__name__}",
            fix="lambda: MyModel(...)",
        )
    return model


class Preparation:
    """Model, optimizer and beats of a task, ready for the first tick.

    Args:
        task: what to train.
        config: how.
        found: the checkpoint to go on from; None: fresh weights.
        branch: the options of the optimizer are the config's, not the checkpoint's.
        world: the processes that train together; None: this one alone.

    Attributes:
        ticks_done: those of the checkpoint.
        changing: the names of the buffers that a forward pass changes, and a checkpoint has.
        forecast: what the task foresees; None: nothing.
        tick_seconds: what the passes of a tick take, where the training has so many minutes.
        convolutions: how those of the model do in bf16; None: they were not looked at.

    Raises:
        MetronormError: what can be found wrong before the first tick.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        found: Checkpoint | None = None,
        *,
        branch: bool = False,
        world: World | None = None,
    ) -> None:
        self.world = world = world or World()
        self.ticks_done, self.tick_seconds = found.tick if found else 0, 0.0
        self.convolutions: Checked | None = None
        check_task(task)
        device = precision.choose_device(config.device)
        torch.manual_seed(config.seed)
        model = _model(task)
        check_whole(model)
        model.to(device)
        if config.activation_checkpointing:
            recompute(layers_of(model))
        if config.init_from and not found:
            initial_weights(model, Path(config.init_from))
        sharded = world.size > 1 and config.parallel == "fsdp"
        self.step = Step(task, config, model, device, compile_whole=not sharded)
        self.beats = make_beats(task.batches, batch_size=config.batch_size, seed=config.seed)
        self.trial = self.beats.first()
        if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            with torch.no_grad(), evaluating(model):
                self.step.loss(self.trial)  # it finds out its sizes
        check_state(model)
        with precision.discarding_gradients(model):
            self.changing = check_batch(self.step, self.trial)
            check_measures(self.step)
            self._choose_precision(config, found)
            if config.minutes:
                self.tick_seconds = self._timed() * config.micro_batches
                check_time(config.minutes, self.tick_seconds)
        if isinstance(self.beats, IteratedBeats):
            warn_of_single_examples(task, self.trial)
            if doubt := self.beats.doubt():
                _log.warning("a resume of this run will not be exact: %s", doubt)
        if found:
            self.beats.load_state_dict(found.state["sampler"])
        # a rank that has failed by now says so here, and not where gradients are shared
        world.check_same(
            "model",
            {
                "tick": self.ticks_done,
                "parameters": [list(each.shape) for each in model.parameters()],
            },
        )
        self.step.share(world, self.trial, self.changing)
        if found:
            found.load_model(model, world=world)
        self.averages = Averages(model, config)
        self.forecast = task.foresee(self) if task.foresee and world.size == 1 else None
        optimizer = self.step.optimizer  # its imports take seconds, which are no tick's
        if found:
            found.load_optimizer(optimizer, self.averages, branch=branch, world=world)

    def change(self, config: TrainConfig) -> None:
        """Take other beats, and keep activations or not; before the first tick of a new run."""
        before, step = self.step.config, self.step
        if config.activation_checkpointing != before.activation_checkpointing:
            change = recompute if config.activation_checkpointing else keep_activations
            change(layers_of(step.model))
        step.config = config
        if config.batch_size != before.batch_size:
            self.beats = make_beats(
                step.task.batches, batch_size=config.batch_size, seed=config.seed
            )
            self.trial = self.beats.first()

    def _choose_precision(self, config: TrainConfig, found: Checkpoint | None) -> None:
        """As the config says, or as the run has had it so far, or else as is measured."""
        step, trial = self.step, self.trial
        if config.precision != "auto":
            step.precision = config.precision
            if config.precision == "bf16" and not found:
                self._bf16_is_right("try --precision fp32")
        elif found:
            step.precision = found.state["precision"]
        else:
            step.precision = self.world.told(self._faster_precision)
        self.allocator = config.allocator
        if config.allocator == "auto":
            self.allocator = self.world.told(
                lambda: precision.choose_allocator(lambda: step.try_out(trial))
            )
        keep_large_blocks(self.allocator == "keep")

    def _faster_precision(self) -> Fixed:
        """The faster one, and bf16 only if the model's convolutions are right in it."""
        step, trial = self.step, self.trial
        chosen = precision.choose_precision(lambda tried: step.try_out(trial, tried), step.device)
        if chosen == "bf16" and not self._bf16_is_right("so fp32 is used"):
            return "fp32"
        return chosen

    def _bf16_is_right(self, otherwise: str) -> bool:
        """Whether the model's convolutions are right in bf16; a warning where they are not."""
        step = self.step
        if step.device.type != "cpu":  # the faults that are known are those of torch's for CPUs
            return True
        trial = to_device(self.trial, step.device)
        found = self.convolutions = check_convolutions(lambda: step.task.loss(step.model, trial))
        if not found.are_right:
            _log.warning(
                "bf16 gives wrong numbers here, %s: %s differs from fp32 by %.2g of its size",
                otherwise,
                found.where,
                found.error,
            )
        return found.are_right

    def _timed(self) -> float:
        """Seconds of a forward and a backward pass."""
        begin = time.perf_counter()
        self.step.try_out(self.trial).item()  # which waits for the device
        return time.perf_counter() - begin

    def windows(self) -> Iterator[Window[Beat]]:
        """This rank's beats of one tick after the other."""
        task, world = self.step.task, self.world
        number = self.step.config.micro_batches
        return rank_windows(self.beats, number, task.count, world, self.trial)
