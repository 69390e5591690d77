"""What is searched: losses with a known limit of stability, and a model with everything in it."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from metronorm.optim import (
    Ticks,
    TicksAdam,
    TicksMuon,
    TicksSign,
    Window,
    windows,
)


class Bowl(nn.Module):
    """Curvature 2 in every direction: gradient descent diverges from 1 on."""

    def __init__(self, curvature: float, start: float = 1.0) -> None:
        super().__init__()
        self.curvature = curvature
        self.place = nn.Parameter(torch.full((4,), start, dtype=torch.float64))


def height(model: nn.Module, batch: Tensor) -> Tensor:
    """Summed over the batch; the values in the batch do not matter."""
    return len(batch) * model.curvature / 2 * model.place.square().sum()


def blank(number: int | None = None, micro_batches: int = 1) -> Iterable[Window[Tensor]]:
    batches = itertools.repeat(torch.zeros(3), *([] if number is None else [number]))
    return windows(batches, micro_batches, len)


def regression(count: int, largest: float) -> tuple[nn.Module, list[Tensor]]:
    """Batches of inputs and noisy targets; the curvature of the mean squared error is `largest`."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([largest, 0.4 * largest, 0.1 * largest, 0.1 * largest]).sqrt()
    batches = []
    for _ in range(count):
        x = torch.randn(16, 4, generator=generator) * scales
        y = x @ (1 / scales) + 0.5 * torch.randn(16, generator=generator)
        batches.append(torch.cat([x, y[:, None]], 1))
    model = nn.Linear(4, 1)
    nn.init.zeros_(model.weight)
    return model, batches


def squared_error(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch[:, :-1])[:, 0] - batch[:, -1]).square().sum() / 2


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    source: Iterable[Window[Tensor]],
    loss: Callable[[nn.Module, Tensor], Tensor],
) -> list[float]:
    losses = []
    for window in source:
        optimizer.zero_grad()
        losses.append(0.0)
        for batch, weight in window:
            value = weight * loss(model, batch)
            value.backward()
            losses[-1] += value.item()
            if hasattr(optimizer, "fold") and optimizer._limits.max_beat_norm:
                optimizer.fold()
        optimizer.step()
    return losses


class Small(nn.Module):
    """A buffer of statistics, random dropout, a frozen parameter, one outside of any optimizer."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6, dtype=dtype), nn.Linear(6, 2, dtype=dtype)
        self.norm, self.drop = nn.BatchNorm1d(6, dtype=dtype), nn.Dropout(0.5)
        self.outside = nn.Parameter(torch.ones(2, dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(6, dtype=dtype), requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("wide", torch.zeros(1).expand(5))  # cannot be written to
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1  # another tensor every time
        hidden = self.drop(self.norm(self.first(x.to(self.frozen.dtype))) * self.frozen)
        return self.last(hidden.relu()) * self.outside

    def inside(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.norm.parameters(), *self.last.parameters()]


def summed(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch).float() - 1).square().sum()


class Unusual(torch.optim.Optimizer):
    """Keeps tensors in lists, counts in attributes and groups, and sees its hooks."""

    def __init__(self, params: Any, lr: Any) -> None:
        self.steps, self.history = 0, [torch.zeros(2)]
        super().__init__(params, {"lr": lr, "seen": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.steps += 1
        self.last = self.steps
        self.history.append(torch.ones(2))
        self.history[0] += 1
        for group in self.param_groups:
            group["seen"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    moments = self.state[p].setdefault("moments", [torch.zeros_like(p), {}])
                    moments[0] += p.grad
                    moments[1].setdefault("count", torch.zeros(()))
                    moments[1]["count"] += 1
                    p -= group["lr"] * moments[0]


class Wrapping(torch.optim.Optimizer):
    """As accelerate does it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad()

    def step(self, closure: None = None) -> None:
        self.optimizer.step()


def muon(model: Small, **options: Any) -> TicksMuon:
    matrices = [p for p in model.inside() if p.ndim == 2]
    rest = [p for p in model.inside() if p.ndim < 2]
    group = {"params": rest[:2], "method": "adamw", "lr": 0.003}
    others = {"params": rest[2:], "method": "ticks", "lr": 0.01}
    return TicksMuon([{"params": matrices}, group, others], lr=0.02, **options)


ROSTER: dict[str, Callable[[Small], torch.optim.Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(m.inside(), lr=0.1),
    "SGD, momentum": lambda m: torch.optim.SGD(m.inside(), lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda m: torch.optim.AdamW(
        [{"params": m.inside()[:2]}, {"params": m.inside()[2:], "lr": 0.003}], lr=0.01
    ),
    "AdamW, lr a tensor": lambda m: torch.optim.AdamW(
        m.inside(), lr=torch.tensor(0.01), amsgrad=True, foreach=False
    ),
    "Ticks": lambda m: Ticks(m.inside(), lr=0.1),
    "Ticks, foreach": lambda m: Ticks(m.inside(), lr=0.1, foreach=True, weight_decay=0.1),
    "Ticks, max_grad_norm": lambda m: Ticks(m.inside(), lr=0.1, max_grad_norm=0.5),
    "Ticks, max_beat_norm": lambda m: Ticks(m.inside(), lr=0.1, max_beat_norm=0.5),
    "Ticks, max_update_norm": lambda m: Ticks(m.inside(), lr=0.1, max_update_norm=0.5),
    "Ticks, skip": lambda m: Ticks(m.inside(), lr=0.1, on_nonfinite="skip"),
    "Ticks, stochastic": lambda m: Ticks(m.inside(), lr=0.1, stochastic_rounding=True),
    "TicksAdam": lambda m: TicksAdam(m.inside(), lr=0.01),
    "TicksMuon": muon,
    "TicksMuon, max_grad_norm": lambda m: muon(m, max_grad_norm=0.5),
    "TicksSign": lambda m: TicksSign(m.inside(), lr=0.01),
    "unusual": lambda m: Unusual(m.inside(), lr=0.01),
    "wrapped Ticks": lambda m: Wrapping(Ticks(m.inside(), lr=0.1)),
}

# how far the run has come: whole windows, and whether one beat of the next
PLACES = {"beginning": (0, False), "first window": (0, True), "tick": (2, False), "beat": (2, True)}


def some(count: int, seed: int = 0, rows: int = 4) -> list[Tensor]:
    return list(torch.randn(count, rows, 3, generator=torch.Generator().manual_seed(seed)))


def running(name: str, place: str) -> tuple[Small, torch.optim.Optimizer]:
    torch.manual_seed(5)
    model = Small(torch.bfloat16 if "stochastic" in name else torch.float32)
    optimizer = ROSTER[name](model)
    ticks, beat = PLACES[place]
    train(model, optimizer, windows(some(2 * ticks), 2, len), summed)
    if beat:
        (summed(model, some(1)[0]) / 8).backward()
        if name == "Ticks, max_beat_norm":
            optimizer.fold()
    model.norm.eval()  # some parts are, others are not
    return model, optimizer


def bits(value: Any) -> Any:
    """All there is to a value: of tensors which they are and their bytes."""
    if isinstance(value, Tensor):
        whole = value.detach().clone().reshape(-1).view(torch.uint8)
        return (id(value), value.dtype, value.shape, value.requires_grad, whole.tolist())
    if isinstance(value, dict):
        named = {id(k) if isinstance(k, Tensor) else k: bits(v) for k, v in value.items()}
        return (id(value), list(named), named)
    if isinstance(value, list | tuple):
        return (id(value), [bits(each) for each in value])
    if isinstance(value, torch.optim.Optimizer):
        return bits({k: v for k, v in vars(value).items() if k != "_sums"})[1:]
    return value


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """All that must be as before."""
    parameters = [*model.parameters()]
    inner = getattr(optimizer, "optimizer", optimizer)
    grown = {}
    if isinstance(inner, Ticks | TicksAdam | TicksMuon | TicksSign):
        sums = {p: inner._sums.get(p) for p in parameters}
        grown = {id(p): inner._sums.is_open(p) for p, c in sums.items() if c is not None}
    return {
        "parameters": bits(parameters)[1],
        "gradients": [bits(p.grad) for p in parameters],
        "buffers": [bits(module._buffers) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "optimizer": bits(optimizer),
        "groups": bits(inner.param_groups),
        "state": bits(inner.state),
        "grown": grown,
        "random": torch.get_rng_state().tolist(),
    }
