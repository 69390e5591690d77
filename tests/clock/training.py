"""A training in virtual time: each part takes a fixed time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from metronorm.clock import Clock
from metronorm.runs import open_run

from .virtual import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

DATA, FORWARD, BACKWARD, UPDATE = 3, 10, 20, 5
TICK = {"data": DATA, "forward": FORWARD, "backward": BACKWARD, "update": UPDATE}
_NO_PHASES = {"time_ns", "wall_ns", "clock_ns", "arrival_ns", "gc_ns"}


class Pass(torch.autograd.Function):
    """Time in the forward and in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, time: VirtualTime) -> Tensor:
        time.pass_(FORWARD)
        ctx.time = time
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.time.pass_(BACKWARD)
        return gradient, None


class Net(nn.Module):
    """A model; `form` makes its output."""

    def __init__(self, time: VirtualTime, form: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.time, self.form = time, form
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.form(Pass.apply(self.linear(x), self.time))


class Descent(torch.optim.Optimizer):
    """Gradient descent, with a closure or without."""

    def __init__(self, parameters: Any, time: VirtualTime) -> None:
        super().__init__(parameters, {"lr": 1e-3})
        self.time = time

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.time.pass_(UPDATE)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter -= group["lr"] * parameter.grad
        return loss


class Samples(Dataset[Any]):
    def __init__(self, time: VirtualTime, count: int) -> None:
        self.time, self.count = time, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.time.pass_(DATA)
        return torch.tensor([1.0, index])


class Training:
    """A model, an optimizer, a loader, and an open clock."""

    def __init__(self, run: Path, batches: int = 4) -> None:
        self.run = run
        self.time = VirtualTime()
        self.clock = Clock(run, progress=False, now=self.time)
        self.model = Net(self.time)
        self.optimizer = Descent(self.model.parameters(), self.time)
        self.loader = DataLoader(Samples(self.time, batches), batch_size=1)
        self.clock.open()

    def beat(self, x: Any, model: Any = None) -> None:
        (model or self.model)(x).sum().backward()

    def turn(self, x: Any) -> None:
        """The body of a loop."""
        self.optimizer.zero_grad()
        self.beat(x)
        self.optimizer.step()

    def ticks(self) -> list[dict[str, Any]]:
        """Close the clock and read its ticks: number, beats, wall time, metrics and phases."""
        self.clock.close()
        found = []
        for row in open_run(self.run).ticks().rows():
            phases = {
                name.removesuffix("_ns"): ns
                for name, ns in row.items()
                if name.endswith("_ns") and name not in _NO_PHASES and ns
            }
            assert sum(phases.values()) == row["wall_ns"]
            rest = {name: row[name] for name in row if not name.endswith("_ns")}
            found.append({**rest, "wall": row["wall_ns"], "phases": phases})
        return found

    def phases(self) -> list[dict[str, int]]:
        return [tick["phases"] for tick in self.ticks()]
