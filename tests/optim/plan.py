"""The data of every rank in `ranks.py`, and the parameters that one process gets from all of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metronorm.optim import TicksMuon, reference

HYPER = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
ADAM = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}


class Batch(NamedTuple):
    x: Tensor  # (rows, 5)
    y: Tensor  # (rows, 3)
    side: bool  # whether the layer of that name is used
    spike: Tensor  # (2,): more gradient of `scale`


class Net(nn.Module):
    """No size is a multiple of the number of ranks. Of three ranks, one has no part of `scale`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.side = nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, batch: Batch) -> Tensor:
        """Summed loss."""
        y = self.outer(torch.tanh(self.inner(batch.x))) * self.scale.prod()
        if batch.side:
            y = y + self.side(batch.x)
        return (y - batch.y).square().sum() + (self.scale * batch.spike).sum()


def make_model() -> Net:
    torch.manual_seed(0)
    return Net().double()


def make_optimizer(kind: Any, model: nn.Module, **more: Any) -> Any:
    parameters: Any = list(model.parameters())
    if kind is TicksMuon:
        vectors = [p for p in parameters if p.ndim < 2]
        parameters = [
            {"params": [p for p in parameters if p.ndim == 2]},
            {"params": vectors[:2], "method": "adamw", "lr": 0.01},
            {"params": vectors[2:], "method": "ticks"},
        ]
    return kind(parameters, **{**HYPER, **more})


def rows(batch: Batch) -> int:
    return len(batch.x)


@dataclass(frozen=True)
class Plan:
    """A window has as many beats as there are ranks, and each beat another number of rows."""

    ranks: int
    unused: str | None = None  # the side layer at every third tick: on "every" rank, or the "first"
    spike: int | None = None  # tick in which the first rank computes an infinite gradient
    ticks: int = 10

    @property
    def beats(self) -> int:
        return self.ranks

    def batch(self, tick: int, rank: int, beat: int) -> Batch:
        generator = torch.Generator().manual_seed(10_000 * tick + 100 * rank + beat)
        length = int(torch.randint(1, 9, (), generator=generator))
        x = torch.randn(length, 5, generator=generator, dtype=torch.float64)
        y = torch.randn(length, 3, generator=generator, dtype=torch.float64)
        concerned = self.unused == "every" or (self.unused == "first" and rank == 0)
        spike = torch.zeros(2, dtype=torch.float64)
        if tick == self.spike and rank == beat == 0:
            spike[1] = torch.inf  # of an element that, sharded, lies on the second rank
        return Batch(x, y, not (concerned and tick % 3 == 0), spike)

    def of_rank(self, rank: int) -> list[Batch]:
        pairs = itertools.product(range(self.ticks), range(self.beats))
        return [self.batch(tick, rank, beat) for tick, beat in pairs]

    def of_tick(self, tick: int) -> list[Batch]:
        pairs = itertools.product(range(self.ranks), range(self.beats))
        return [self.batch(tick, rank, beat) for rank, beat in pairs]


@cache
def one_process(
    plan: Plan, kind: Any = torch.optim.SGD, clip: float | None = None, **more: Any
) -> list[Tensor]:
    """Parameters that one process gets from one batch per tick; it skips the infinite one."""
    model = make_model()
    optimizer = make_optimizer(kind, model, **more)
    for tick in range(plan.ticks):
        if tick == plan.spike:
            continue
        batches = plan.of_tick(tick)
        optimizer.zero_grad()
        (sum(map(model, batches)) / sum(map(rows, batches))).backward()
        if clip is not None:
            given = [p.grad for p in model.parameters() if p.grad is not None]
            norm = float(torch.cat([each.flatten() for each in given]).norm())
            torch._foreach_mul_(given, min(1.0, clip / norm))
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def one_process_with_squares(plan: Plan) -> list[Tensor]:
    """The equations of TicksAdam, with each rank's beat as one beat, divided by all ranks' rows."""
    model = make_model()
    parameters = list(model.parameters())
    start = nn.utils.parameters_to_vector(parameters).tolist()
    windows = []
    for tick in range(plan.ticks):
        batches = plan.of_tick(tick)
        beats = []
        for batch in batches:
            loss = model(batch) / sum(map(rows, batches))
            found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            beats.append(nn.utils.parameters_to_vector(found).tolist())
        windows.append(beats)
        end = torch.tensor(reference.ticks_adam(start, windows, **ADAM), dtype=torch.float64)
        with torch.no_grad():
            nn.utils.vector_to_parameters(end, parameters)
    return [parameter.detach() for parameter in parameters]
