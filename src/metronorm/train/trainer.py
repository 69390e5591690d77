"""One tick of training: the micro-batches of a window in, one update of the parameters out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import DivergenceError
from metronorm.train.machine import Precision, autocast, choose_precision, untouched
from metronorm.train.schedule import learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from metronorm.clock import Clock
    from metronorm.models.gpt import GPT
    from metronorm.train.config import OptimizerConfig, TrainConfig

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
        self.optimizer = adamw(model, config.optimizer, device)
        self._call = torch.compile(model) if config.compile else model
        if precision is None:
            assert trial is not None
            with untouched(model):
                precision = choose_precision(lambda tried: self.try_out(trial, tried), device)
        self.precision = precision

    def tick(self, clock: Clock, window: list[Beat]) -> None:
        """Accumulate the gradient of the window's mean loss, then update.

        Every token of the window weighs the same, however the micro-batches divide them.

        Raises:
            DivergenceError: the loss or the gradient is not finite; the parameters are untouched.
        """
        tokens = sum(targets.size for _, targets in window)
        loss = 0.0
        for inputs, targets in window:
            with clock.phase("forward"), autocast(self.device, self.precision):
                share = self._call(self._put(inputs), self._put(targets)) / tokens
            with clock.phase("backward"):
                share.backward()
                loss += share.item()
        with clock.phase("update"):
            rate = learning_rate(self.config.optimizer, clock.tick, self.config.ticks)
            norm = self._update(rate, loss)
        clock.log(loss=loss, tokens=tokens, learning_rate=rate, gradient_norm=norm)

    def _update(self, rate: float, loss: float) -> float:
        clip = self.config.optimizer.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise DivergenceError(
                "loss and gradient must stay finite",
                got=f"loss {loss}, gradient norm {norm}",
                fix="a lower --optimizer.learning-rate or a longer --optimizer.warmup",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def evaluate(self, beats: Iterable[Beat]) -> float:
        """Mean loss per token, in nats."""
        self.model.eval()
        total, tokens = 0.0, 0
        for inputs, targets in beats:
            with autocast(self.device, self.precision):
                total += self._call(self._put(inputs), self._put(targets)).item()
            tokens += targets.size
        self.model.train()
        return total / tokens

    def try_out(self, beat: Beat, precision: Precision | None = None) -> None:
        """A forward and a backward pass, to be timed; the gradients are left behind."""
        inputs, targets = beat
        with autocast(self.device, precision or self.precision):
            loss = self._call(self._put(inputs), self._put(targets)) / targets.size
        loss.backward()

    def _put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def adamw(model: GPT, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and none on vectors."""
    parameters = list(model.parameters())
    groups = [
        {
            "params": [p for p in parameters if p.dim() >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        fused=device.type in ("cpu", "cuda"),
    )
