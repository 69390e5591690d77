"""Memory and time of a tick: our optimizers beside torch's and optimi's with gradient release.

Parameters are those of GPTs of 10 M and 124 M parameters. Their gradients do not come from a model,
whose time would hide the optimizer's, but from an autograd node per parameter that hands over a
fresh copy of a fixed one: what autograd does with gradients (keep the first, add the next) is real.
A tick is 1, 4 or 16 such beats, step and zero_grad; "step" is the last two.

Memory counts every tensor: parameters, gradients, states, and what lives for a moment. Held is
what is there after a beat or a step; peak is the worst moment, when the gradient of the largest
parameter has just been made (in 124 M that is the embedding, 31 % of all).

python bench/ticks.py
python bench/ticks.py --device cuda    on a GPU; the rows go to `ticks_cuda.csv`
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
from typing import TYPE_CHECKING, Any

import optimi
import torch
from _memory import Peak
from _race import ratios
from _rows import append
from torch import Tensor, nn

from metronorm.allocator import keep_large_blocks
from metronorm.models.config import preset
from metronorm.models.gpt import GPT
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[[nn.ParameterList], list[torch.optim.Optimizer]]

SIZES = {"10 M": "small", "124 M": "gpt2"}
WINDOWS = (1, 4, 16)
LR = 1e-6  # fixed gradients, for ever: parameters must stay finite


class Place:
    """The device of all tensors, and the file of its rows."""

    device = torch.device("cpu")
    name = "ticks"

    @classmethod
    def choose(cls, device: str) -> None:
        cls.device = torch.device(device)
        if cls.device.type != "cpu":
            cls.name = f"ticks_{cls.device.type}"

    @classmethod
    def wait(cls) -> None:
        """Return when the device has computed everything."""
        if cls.device.type != "cpu":
            torch.accelerator.synchronize(cls.device)


class Arrive(torch.autograd.Function):
    """Something whose gradient with respect to a parameter is a copy of `gradient`."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return parameter.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient.clone(), None


_arrive: Callable[[Tensor, Tensor], Tensor] = Arrive.apply


class Contestant:
    """An optimizer, or several that step together, over parameters of its own."""

    def __init__(
        self,
        shapes: list[torch.Size],
        make: Make,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = nn.ParameterList(
            torch.empty(shape, dtype=dtype, device=Place.device) for shape in shapes
        )
        for parameter in self.model:
            nn.init.normal_(parameter, std=0.02)
        self.optimizers: list[Any] = make(self.model)
        self.release = isinstance(self.optimizers[0], optimi.optimizer.OptimiOptimizer)
        if self.release:
            optimi.prepare_for_gradient_release(self.model, self.optimizers[0])

    def beat(self, gradients: list[Tensor], *, last: bool) -> None:
        if self.release:
            self.optimizers[0].optimizer_accumulation = not last
        arrivals = [_arrive(*pair) for pair in zip(self.model, gradients, strict=True)]
        torch.stack(arrivals).sum().backward()

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def tick(self, gradients: list[Tensor], window: int) -> tuple[float, float]:
        """Seconds of the whole tick, and of its step."""
        Place.wait()
        begin = time.perf_counter()
        for k in range(window):
            self.beat(gradients, last=k == window - 1)
        Place.wait()
        middle = time.perf_counter()
        self.step()
        Place.wait()
        end = time.perf_counter()
        return end - begin, end - middle


def matrices(model: nn.ParameterList) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What Muon takes, and the rest: vectors, and embeddings, which come first."""
    hidden = [p for p in model if p.ndim == 2 and p.shape[0] <= 5 * p.shape[1]]
    known = {id(p) for p in hidden}
    return hidden, [p for p in model if id(p) not in known]


def torch_muon(model: nn.ParameterList) -> list[torch.optim.Optimizer]:
    hidden, rest = matrices(model)
    return [
        torch.optim.Muon(hidden, lr=LR, nesterov=False),
        torch.optim.AdamW(rest, lr=LR, fused=True),
    ]


def ticks_muon(model: nn.ParameterList) -> list[torch.optim.Optimizer]:
    hidden, rest = matrices(model)
    groups = [{"params": hidden}, {"params": rest, "method": "adamw"}]
    return [TicksMuon(groups, lr=LR, weight_decay=0.1)]


def optimi_sgd(model: nn.ParameterList) -> list[torch.optim.Optimizer]:
    return [optimi.SGD(model.parameters(), lr=LR, momentum=0.9, gradient_release=True)]


CONTESTANTS: dict[str, Make] = {
    "SGD foreach": lambda m: [torch.optim.SGD(m, lr=LR, momentum=0.9, foreach=True)],
    "SGD fused": lambda m: [torch.optim.SGD(m, lr=LR, momentum=0.9, fused=True)],
    "optimi SGD, gradient release": optimi_sgd,
    "Ticks": lambda m: [Ticks(m, lr=LR)],
    "Ticks, on_nonfinite=None": lambda m: [Ticks(m, lr=LR, on_nonfinite=None)],
    "Ticks, max_grad_norm": lambda m: [Ticks(m, lr=LR, max_grad_norm=1.0)],
    "TicksSign": lambda m: [TicksSign(m, lr=LR, on_nonfinite=None)],
    "AdamW fused": lambda m: [torch.optim.AdamW(m, lr=LR, fused=True)],
    "TicksAdam": lambda m: [TicksAdam(m, lr=LR)],
}
MUONS: dict[str, Make] = {"torch Muon + AdamW": torch_muon, "TicksMuon": ticks_muon}
PAIRS = [
    ("SGD fused", "Ticks"),
    ("SGD fused", "Ticks, on_nonfinite=None"),
    ("SGD foreach", "Ticks, on_nonfinite=None"),
    ("optimi SGD, gradient release", "Ticks"),
    ("AdamW fused", "TicksAdam"),
    ("torch Muon + AdamW", "TicksMuon"),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    Place.choose(parser.parse_args().device)
    logging.disable()  # the note on the memory of max_grad_norm
    keep_large_blocks(True)  # for everybody: else page faults are what is measured
    for size, name in SIZES.items():
        with torch.device("meta"):
            shapes = [p.shape for p in GPT(preset(name)).parameters()]
        numbers = sum(shape.numel() for shape in shapes)
        gradients = [torch.randn(shape, device=Place.device) * 1e-3 for shape in shapes]
        for window in WINDOWS:
            memory(f"{size}, window {window}", shapes, gradients, numbers, window)
        for window in WINDOWS:
            speed(f"{size}, window {window}", CONTESTANTS, shapes, gradients, window)
        speed(f"{size}, window 1", MUONS, shapes, gradients, 1)


def memory(
    case: str, shapes: list[torch.Size], gradients: list[Tensor], numbers: int, window: int
) -> None:
    for name, make in (CONTESTANTS | MUONS).items():
        held, peak = bytes_of(make, shapes, gradients, window, torch.float32)
        append(Place.name, f"{case}, {name}, held", "bytes/parameter", [held / numbers])
        append(Place.name, f"{case}, {name}, peak", "bytes/parameter", [peak / numbers])
    halves = [gradient.bfloat16() for gradient in gradients]
    for name in ("SGD foreach", "Ticks"):
        held, peak = bytes_of(CONTESTANTS[name], shapes, halves, window, torch.bfloat16)
        append(Place.name, f"{case}, bf16, {name}, held", "bytes/parameter", [held / numbers])
        append(Place.name, f"{case}, bf16, {name}, peak", "bytes/parameter", [peak / numbers])


def bytes_of(
    make: Make,
    shapes: list[torch.Size],
    gradients: list[Tensor],
    window: int,
    dtype: torch.dtype,
) -> tuple[int, int]:
    """Bytes held, and at the worst moment of the third tick."""
    with Peak() as seen:
        contestant = Contestant(shapes, make, dtype)
        for _ in range(2):
            contestant.tick(gradients, window)
        seen.most = seen.now
        held = seen.now
        for k in range(window):
            contestant.beat(gradients, last=k == window - 1)
            held = max(held, seen.now)
        contestant.step()
        return held, seen.most


def speed(
    case: str,
    contestants: dict[str, Make],
    shapes: list[torch.Size],
    gradients: list[Tensor],
    window: int,
) -> None:
    ready = {name: Contestant(shapes, make) for name, make in contestants.items()}
    ticks: dict[str, list[float]] = {name: [] for name in ready}
    steps: dict[str, list[float]] = {name: [] for name in ready}
    for turn in turns(shapes, window, len(ready)):
        for name, contestant in ready.items():
            whole, step = contestant.tick(gradients, window)
            if turn:
                ticks[name].append(whole * 1e3)
                steps[name].append(step * 1e3)
    for name in ready:
        append(Place.name, f"{case}, {name}, tick", "ms", ticks[name])
        append(Place.name, f"{case}, {name}, step", "ms", steps[name])
    for slow, fast in PAIRS:
        if slow in ready:
            for part, samples in (("step", steps), ("tick", ticks)):
                found = ratios(samples, slow, fast)
                append(Place.name, f"{case}, {slow} over {fast}, {part}", "ratio", found)
    del ready
    gc.collect()


def turns(shapes: list[torch.Size], window: int, contestants: int) -> Iterator[int]:
    """Numbers of turns, the first for warming up; fewer where a turn is long."""
    numbers = sum(shape.numel() for shape in shapes)
    yield from range(1 + max(7, min(40, round(2e10 / (numbers * window * contestants)))))


if __name__ == "__main__":
    main()
