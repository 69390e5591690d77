"""One of several processes that train together: FOLDER STORE as arguments, RANK in the environment.

Records a run for each way of training together. In every tick the last rank takes `DELAY` more than
the others.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.clock import Clock
from metronorm.clock.hooks import Watch
from tests.side_by_side import leave

if TYPE_CHECKING:
    from collections.abc import Callable

DELAY, TICKS, RANKS = 0.1, 11, 3
RANK = int(os.environ["RANK"])
FOLDER, STORE = Path(sys.argv[1]), sys.argv[2]


def clock_of(case: str) -> Clock:
    return Clock(FOLDER / case, progress=False)


class Slow(torch.autograd.Function):
    """Delays the last rank in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wanted: bool) -> Tensor:
        ctx.wanted = wanted
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.wanted and RANK == RANKS - 1:
            time.sleep(DELAY)
        return gradient, None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor, slow: bool = True) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(Slow.apply(x, slow) if number == 2 else x).tanh()
        return x


def train(
    case: str,
    model: nn.Module,
    beat: Callable[[nn.Module, Tensor], None] = lambda model, x: model(x).sum().backward(),
    between: Callable[[nn.Module], None] = lambda model: None,
    ticks: int = TICKS,
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = [torch.randn(8, 64) for _ in range(ticks)]
    with clock_of(case) as clock, Watch(clock, model, optimizer) as watch:
        for x in watch.data(batches):
            optimizer.zero_grad()
            beat(model, x)
            between(model)
            optimizer.step()


def ddp(**options: Any) -> DistributedDataParallel:
    return DistributedDataParallel(Net(), bucket_cap_mb=0.02, **options)


def with_a_hook() -> nn.Module:
    model = ddp()
    model.register_comm_hook(None, fp16_compress_hook)
    return model


def sharded() -> nn.Module:
    model = Net()
    for layer in model.layers:
        fully_shard(layer)
    return fully_shard(model)


def two_beats(model: nn.Module, x: Tensor) -> None:
    """Both reduce their gradients; the rank is slow in the first."""
    model(x, True).sum().backward()
    model(x, False).sum().backward()


def one_reduction(model: Any, x: Tensor) -> None:
    with model.no_sync():
        model(x, True).sum().backward()
    model(x, False).sum().backward()


def by_hand(model: nn.Module) -> None:
    for parameter in model.parameters():
        distributed.all_reduce(parameter.grad)


def slow_to_load(case: str) -> None:
    """The rank waits for data."""

    def batches() -> Any:
        for _ in range(TICKS):
            time.sleep(DELAY if RANK == RANKS - 1 else 0)
            yield torch.randn(8, 64)

    model = ddp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with clock_of(case) as clock, Watch(clock, model, optimizer) as watch:
        for x in watch.data(batches()):
            optimizer.zero_grad()
            model(x, False).sum().backward()
            optimizer.step()


store = distributed.FileStore(STORE, RANKS)
distributed.init_process_group(
    "gloo", store=store, rank=RANK, world_size=RANKS, timeout=timedelta(seconds=60)
)
try:
    train("ddp", ddp(), ticks=40)  # enough for a diagnosis
    train("static graph", ddp(static_graph=True))
    train("hook", with_a_hook())
    train("two beats", ddp(), two_beats)
    train("one reduction", ddp(), one_reduction)
    train("by hand", Net(), between=by_hand)
    train("sharded", sharded())
    slow_to_load("data")
    # The first process that ends closes connections on which another may still receive.
    store.set(f"finished {RANK}", "")
    store.wait([f"finished {rank}" for rank in range(RANKS)])
finally:
    distributed.destroy_process_group()
leave()
