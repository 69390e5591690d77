"""One tick of training: the micro-batches of a window in, one update of the parameters out."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import DivergenceError
from metronorm.optim.accumulator import Accumulator
from metronorm.train.machine import Precision, autocast, choose_precision, untouched
from metronorm.train.optimizers import make_optimizer
from metronorm.train.schedule import share

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from metronorm.clock import Clock
    from metronorm.models.gpt import GPT
    from metronorm.optim import Window
    from metronorm.train.config import TrainConfig

    Beat = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class Trainer:
    """A model, its optimizer, and how a tick of theirs is done.

    Args:
        config: of the training.
        model: to train; moved to the device by the caller.
        device: of the model.
        precision: of the matrix products, or None to measure both on `trial`.
        trial: a micro-batch to measure with.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: GPT,
        device: torch.device,
        *,
        precision: Precision | None = None,
        trial: Beat | None = None,
    ) -> None:
        self.config, self.model, self.device = config, model, device
        self._call = torch.compile(model) if config.compile else model
        if precision is None:
            assert trial is not None
            with untouched(model):
                precision = choose_precision(lambda tried: self.try_out(trial, tried), device)
        self.precision = precision

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Made for the first tick, so that it sees no gradient of what is tried out before."""
        return make_optimizer(self.model, self.config.optimizer, self.device)

    def tick(self, clock: Clock, window: Window[Beat]) -> None:
        """Accumulate the gradient of the window's mean loss, then update.

        Every token of the window weighs the same, however the micro-batches divide them.

        Raises:
            DivergenceError: the loss or the gradient is not finite; the parameters are untouched.
        """
        loss, optimizer = 0.0, self.optimizer
        for (inputs, targets), weight in window:
            with clock.phase("forward"), autocast(self.device, self.precision):
                part = self._call(self._put(inputs), self._put(targets)) * weight
            with clock.phase("backward"):
                part.backward()
                loss += part.item()
        with clock.phase("update"):
            now = share(self.config.optimizer, clock.tick, self.config.ticks)
            norm = self._update(optimizer, now, loss)
        rate = now * self.config.optimizer.learning_rate
        clock.log(loss=loss, tokens=window.count, learning_rate=rate)
        if norm is not None:
            clock.log(gradient_norm=norm)

    def _update(self, optimizer: torch.optim.Optimizer, now: float, loss: float) -> float | None:
        """Step at `now` times the learning rates; the norm of the gradient, where it is known."""
        if not math.isfinite(loss):
            raise diverged(f"loss {loss}")
        for group in optimizer.param_groups:
            group["lr"] = now * group.setdefault("initial_lr", group["lr"])
        norm = None
        if not isinstance(optimizer, Accumulator):
            clip = self.config.optimizer.clip or math.inf
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip).item()
            if not math.isfinite(norm):
                raise diverged(f"loss {loss}, gradient norm {norm}")
        try:
            optimizer.step()
        except DivergenceError as error:
            raise diverged(f"loss {loss}, a gradient with {error.got}") from None
        optimizer.zero_grad()
        return norm if norm is not None else getattr(optimizer, "gradient_norm", None)

    @torch.no_grad()
    def evaluate(self, beats: Iterable[Beat]) -> float:
        """Mean loss per token, in nats; NaN of no tokens."""
        self.model.eval()
        total, tokens = 0.0, 0
        for inputs, targets in beats:
            with autocast(self.device, self.precision):
                total += self._call(self._put(inputs), self._put(targets)).item()
            tokens += targets.size
        self.model.train()
        return total / tokens if tokens else math.nan

    def try_out(self, beat: Beat, precision: Precision | None = None) -> None:
        """A forward and a backward pass, to be timed; the gradients are left behind."""
        inputs, targets = beat
        with autocast(self.device, precision or self.precision):
            loss = self._call(self._put(inputs), self._put(targets)) / targets.size
        loss.backward()

    def _put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def tokens_of(beat: Beat) -> int:
    """How many tokens the summed loss of a micro-batch is over."""
    _, targets = beat
    return int(targets.size)


def diverged(got: str) -> DivergenceError:
    """What a user of the command line can do about it: nothing that a resumed run refuses."""
    return DivergenceError(
        "loss and gradient must stay finite",
        got=got,
        fix="a new run with a lower --optimizer.learning-rate or a longer --optimizer.warmup",
    )
