"""One tick of a training: the beats of a window in, one update of the parameters out.

Nothing here waits for the device. The loss is summed there, and whether it and the gradient are
finite is decided there, before the parameters move; see `finite.py`.

| in a tick | on the device | on the host |
| --- | --- | --- |
| all is finite | the parameters move | goes on |
| the loss or the gradient is not | the parameters stay, from now on | goes on |
| a later one | the parameters stay | raises when it knows, and names that first tick |
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import ConfigError
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.holding import step_or_hold, step_unless
from metronorm.train import buffers
from metronorm.train.batches import to_device
from metronorm.train.finite import FirstNonfinite
from metronorm.train.optimizers import check_processes, make_optimizer
from metronorm.train.parallel import make_passes
from metronorm.train.passes import Alone
from metronorm.train.precision import autocast
from metronorm.train.schedule import learning_rate_factor
from metronorm.train.seeding import seed_beat
from metronorm.train.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from metronorm.clock import Clock
    from metronorm.optim import Window
    from metronorm.train.config import TrainConfig
    from metronorm.train.passes import Passes
    from metronorm.train.precision import Fixed
    from metronorm.train.rank_beats import Beat
    from metronorm.train.task import Batch, Task

_log = logging.getLogger("metronorm")


class Step:
    """A model, its optimizer, and how they make a tick.

    Args:
        task: whose loss to make smaller.
        config: of the training.
        model: on its device.
        device: of the model.
        compile_whole: where the config says to compile; False: `share` compiles layer by layer.

    Attributes:
        precision: of the matrix products; may be set.
        first_nonfinite: the first tick whose loss or gradient was not finite, if any.
        begun: the newest tick that has begun to change what a checkpoint holds: the parameters, or
            sums that the optimizer carries over.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        model: nn.Module,
        device: torch.device,
        *,
        compile_whole: bool = True,
    ) -> None:
        self.task, self.config, self.model, self.device = task, config, model, device
        self.precision: Fixed = "fp32"
        self.first_nonfinite = FirstNonfinite(device)
        self.begun = 0
        compiled: Any = torch.compile(model) if config.compile and compile_whole else model
        self._call: nn.Module = compiled
        self._world = World()
        self._changing: Sequence[str] = ()
        self._passes: Passes = Alone(task, self._call)

    @property
    def reducing(self) -> nn.Module:
        """The module whose backward pass averages gradients over ranks."""
        return self._passes.reducing

    def share(self, world: World, trial: Batch, changing: Sequence[str]) -> None:
        """Share the passes with other processes from now on; before there is an optimizer.

        Args:
            world: the processes.
            trial: the first batch.
            changing: names of the buffers that a forward pass changes.

        Raises:
            ConfigError: the model cannot be shared in this way.
        """
        self._world, self._changing = world, changing
        trial = to_device(trial, self.device)
        self._passes = make_passes(self.task, self.model, self._call, self.config, world, trial)
        if changing and world.size > 1 and world.first:
            _log.warning(
                "every forward pass changes %s: of several processes rank 0's is kept, which knows "
                "its own beats only",
                ", ".join(changing[:5]),
            )

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Made for the first tick, so that it sees no gradient of what is tried out before."""
        check_processes(self.config.optimizer, self._world.size)
        groups = self.task.groups(self.model, self.config) if self.task.groups else None
        return make_optimizer(self.model, self.config.optimizer, self.device, groups)

    def tick(
        self, clock: Clock, window: Window[Beat], agree: Callable[[], None] | None = None
    ) -> None:
        """Accumulate the gradient of the window's mean loss, then update.

        All that is counted in the window weighs the same, however the beats divide it.

        Args:
            clock: whose running tick this is.
            window: the beats of this rank.
            agree: what else ranks must agree on in each tick; called where they have just waited
                for each other, so that they need not wait once more.

        Raises:
            DivergenceError: the loss or the gradient is not finite; the parameters are as they
                were.
        """
        loss = torch.zeros((), device=self.device)
        for beat, weight in window:
            seed_beat(self.config.seed, clock.tick, beat.number, self.device)
            part = self._accumulate(clock, beat, weight, last=window.done == window.beats)
            loss = loss if part is None or beat.is_idle else loss + part
        if self._world.size > 1:
            with self._world.phase(clock, "communicate"):
                loss = self._world.added(loss.double()) / self._world.size
                buffers.take_from_first(self.model, self._changing)
                if agree:
                    agree()
        with self._world.phase(clock, "update"):
            factor = learning_rate_factor(self.config.optimizer, clock.tick, self.config.ticks)
            norm = self._update(clock.tick, factor, loss)
        rate = factor * self.config.optimizer.learning_rate
        clock.log(loss=loss, learning_rate=rate, **{self.task.unit: window.local_count})
        if norm is not None:
            clock.log(gradient_norm=norm)

    def _accumulate(self, clock: Clock, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """One beat's forward and backward pass; the weighted loss, where there is one."""
        beat = beat._replace(batch=to_device(beat.batch, self.device))
        carries_over = isinstance(self.optimizer, Accumulator)
        if self.task.accumulate is not None:
            self.begun = clock.tick if carries_over else self.begun
            with self._world.phase(clock, "backward"), autocast(self.device, self.precision):
                return self._passes.accumulate(beat, weight, last=last)
        with self._world.phase(clock, "forward"), autocast(self.device, self.precision):
            part = self._passes.loss(beat, weight, last=last)
        if part is None:
            return None
        self.begun = clock.tick if carries_over else self.begun
        with self._world.phase(clock, "backward"):
            part.backward()
        return part.detach()

    def _update(self, tick: int, factor: float, loss: Tensor) -> float | Tensor | None:
        """Step at `factor` times the learning rates; the gradient's norm, where it is known."""
        optimizer, self.begun = self.optimizer, tick
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
        held = ~loss.isfinite()
        if isinstance(optimizer, Accumulator):
            held = step_or_hold(optimizer, held)
            norm = optimizer.gradient_norm
        else:
            clip = self.config.optimizer.clip or math.inf
            norm = _whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip))
            held = held | ~norm.isfinite() | self.first_nonfinite.seen
            _step_unless(optimizer, held)
        self.first_nonfinite.note(tick, loss, held)
        self.first_nonfinite.check()
        optimizer.zero_grad()
        return norm

    def try_out(self, batch: Batch, precision: Fixed | None = None) -> Tensor:
        """A forward and a backward pass of one beat, which leave gradients; the summed loss.

        Raises:
            ConfigError: the loss is no tensor.
        """
        batch = to_device(batch, self.device)
        weight = 1 / max(1, self.task.count(batch))
        with autocast(self.device, precision or self.precision):
            if self.task.accumulate is not None:
                return self.task.accumulate(self._call, batch, weight).detach() / weight
            loss = self.task.loss(self._call, batch)
        if not isinstance(loss, torch.Tensor):
            raise ConfigError("a loss must be a tensor", got=type(loss).__name__)
        (loss * weight).backward()
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, summed."""
        batch = to_device(batch, self.device)
        with autocast(self.device, self.precision):
            return self.task.loss(self._call, batch)

    def sums(self, batch: Batch) -> dict[str, Any]:
        """What the task measures of a batch: sums by name.

        Raises:
            ConfigError: it returns something else.
        """
        if self.task.measure is None:
            return {"loss": self.loss(batch)}
        with autocast(self.device, self.precision):
            found = self.task.measure(self._call, to_device(batch, self.device))
        if not isinstance(found, Mapping):
            raise ConfigError(
                "measure must return sums by name",
                got=f"a {type(found).__name__}",
                fix='{"loss": ...}',
            )
        return dict(found)


def _whole(tensor: Tensor) -> Tensor:
    """A DTensor's value, which is the same on all ranks; any other tensor itself."""
    whole = getattr(tensor, "full_tensor", None)
    return whole() if whole else tensor


def _step_unless(optimizer: torch.optim.Optimizer, held: Tensor) -> None:
    """Step unless `held`; of an optimizer without fused kernels the host must read that."""
    if all(group.get("fused") for group in optimizer.param_groups):
        step_unless(optimizer, held)
    elif not held:
        optimizer.step()
