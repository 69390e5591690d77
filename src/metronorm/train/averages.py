"""Averages of the weights over ticks, kept beside them in float32.

| name | average | source |
| --- | --- | --- |
| `ema` | exponential, a share `1 - decay` of each tick's weights, debiased | Polyak, 1992 |
| `last` | equal, over the last part of the training | Izmailov et al., 2018, arXiv:1803.05407 |
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from metronorm.train.config import TrainConfig


class Averages:
    """The averages that a config asks for: none, one or both; each is a copy of the weights."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._config, self._model = config, model
        self._names = [name for name, p in model.named_parameters() if p.is_floating_point()]
        self._weights: list[Tensor] = [p for p in model.parameters() if p.is_floating_point()]
        self._first = math.floor(config.ticks * (1 - config.average_last)) + 1
        kinds = {"ema": config.ema > 0, "last": config.average_last > 0}
        self._sums = {
            kind: [torch.zeros_like(p, dtype=torch.float32) for p in self._weights]
            for kind, wanted in kinds.items()
            if wanted
        }

    @torch.no_grad()
    def update(self, tick: int) -> None:
        """Take in the weights as they are after this tick."""
        for kind, average in self._sums.items():
            share = self._share(kind, tick)
            if share:
                now = [weight.float() for weight in self._weights]
                torch._foreach_lerp_(average, now, share)

    def _share(self, kind: str, tick: int) -> float:
        """The share of the newest weights, such that the average is not biased towards zero."""
        if kind == "ema":
            return (1 - self._config.ema) / (1 - self._config.ema**tick)
        return 1 / (tick - self._first + 1) if tick >= self._first else 0.0

    def ready(self, tick: int) -> list[str]:
        """The averages that there are after this tick."""
        return [kind for kind in self._sums if kind == "ema" or tick >= self._first]

    @contextlib.contextmanager
    def in_place(self, kind: str) -> Iterator[None]:
        """Inside the block the model has the weights of the average."""
        with torch.no_grad():
            kept = [weight.clone() for weight in self._weights]
            torch._foreach_copy_(self._weights, self._sums[kind])
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, kept)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: `average.KIND.PARAMETER`, float32."""
        return {
            f"average.{kind}.{name}": tensor
            for kind, tensors in self._sums.items()
            for name, tensor in zip(self._names, tensors, strict=True)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave.

        Raises:
            KeyError, RuntimeError: one is missing, or of another shape.
        """
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
