"""Averages of the weights over ticks, kept beside them in float32 or better.

| name | average | source |
| --- | --- | --- |
| `ema` | exponential, a share `1 - decay` of each tick's weights, debiased | Polyak, 1992 |
| `last` | equal, over the last part of the training | Izmailov et al., 2018, arXiv:1803.05407 |

Only what is trained is averaged. Buffers, such as the running statistics of BatchNorm, are in an
evaluation of an average what they are in the model.

| `last`: the tick | the average |
| --- | --- |
| is before the last part | is not there yet |
| is the first of the last part | begins |
| is a later one | takes in the tick's weights |
| follows a plan of more ticks, and the average holds some of before the part | begins |
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from metronorm.optim.blocks import local
from metronorm.train.sharded import gather_anew

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from metronorm.train.config import TrainConfig


class Averages:
    """The averages that a config asks for: none, one or both; each is a copy of the weights."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        trained = {
            name: weight
            for name, weight in model.named_parameters()
            if weight.requires_grad and (weight.is_floating_point() or weight.is_complex())
        }
        self._model, self._names = model, list(trained)
        self._weights: list[Tensor] = list(trained.values())
        self._decay = config.ema
        self._part = config.average_last
        self.plan(config.ticks)
        self._begin = torch.zeros((), dtype=torch.int64)  # tick, of `last`; 0: it has not begun
        kinds = {"ema": config.ema > 0, "last": config.average_last > 0}
        self._averages = {
            kind: [torch.zeros_like(weight, dtype=_wide(weight)) for weight in self._weights]
            for kind, wanted in kinds.items()
            if wanted
        }

    def plan(self, ticks: int) -> None:
        """Have the last part end with this tick."""
        self._first = ticks - max(1, round(ticks * self._part)) + 1

    @torch.no_grad()
    def update(self, tick: int) -> None:
        """Take in the weights as they are after this tick."""
        for kind, average in self._averages.items():
            if share := self._share(kind, tick):
                now = [local(weight).to(_wide(weight)) for weight in self._weights]
                torch._foreach_lerp_([local(each) for each in average], now, share)

    def _share(self, kind: str, tick: int) -> float:
        """The share of the newest weights, such that the average is not biased towards zero."""
        if kind == "ema":
            return (1 - self._decay) / (1 - self._decay**tick)
        if tick < self._first:
            return 0.0
        if self._begin < self._first:
            self._begin.fill_(tick)
        return 1 / (tick - int(self._begin) + 1)

    def ready(self, tick: int) -> list[str]:
        """The averages that there are after this tick."""
        return [kind for kind in self._averages if kind == "ema" or tick >= self._first]

    @contextlib.contextmanager
    def in_place(self, kind: str) -> Iterator[None]:
        """Inside the block the model has the weights of the average."""
        weights = [local(weight) for weight in self._weights]
        with torch.no_grad():
            kept = [weight.clone() for weight in weights]
            torch._foreach_copy_(weights, [local(each) for each in self._averages[kind]])
        gather_anew(self._model)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)
            gather_anew(self._model)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: `average.KIND.PARAMETER`, and where `last` begins."""
        kept = {
            f"average.{kind}.{name}": tensor
            for kind, tensors in self._averages.items()
            for name, tensor in zip(self._names, tensors, strict=True)
        }
        return {**kept, "average.begin": self._begin} if "last" in self._averages else kept

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave.

        Raises:
            KeyError, RuntimeError: one is missing, or of another shape.
        """
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


def _wide(weight: Tensor) -> torch.dtype:
    """At least float32: a share of a thousandth is lost in bfloat16."""
    return torch.promote_types(weight.dtype, torch.float32)
