"""One of two processes that search for a learning rate together: RANK STORE."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.optim import LearningRateSearch, Ticks, find_learning_rate, windows
from tests.optim.searches import some
from tests.side_by_side import leave


def searched(how: str, rank: int | None) -> LearningRateSearch:
    """By one process, or by one of two that have every second batch of a window."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    batches = [each.double()[: 1 + number % 4] for number, each in enumerate(some(160))]
    source = windows(batches, 4, len)
    model: nn.Module = inner
    if rank is not None:
        ranks = "sum" if how == "sum" else "mean"
        source = windows(batches[rank::2], 2, len, ranks=ranks)
        if how == "ddp":
            model = nn.parallel.DistributedDataParallel(inner)
        elif how == "fsdp":
            model = fully_shard(inner)
    kind = torch.optim.SGD if how == "sum" else Ticks
    optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
    if rank is not None and how == "sum":
        optimizer.register_step_pre_hook(add_gradients)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) - batch[:, :2].sin()).square().sum()

    def place() -> list[list[float]]:
        return [getattr(p, "_local_tensor", p).tolist() for p in model.parameters()]

    before = place()
    search = find_learning_rate(model, optimizer, source, loss, ticks=40, highest=100.0)
    assert place() == before
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())
    return search


def add_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        distributed.all_reduce(parameter.grad)


def main(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(store, 2),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    shared = {how: searched(how, rank) for how in ("ddp", "fsdp", "sum")}
    distributed.destroy_process_group()
    for how, search in shared.items():
        single = searched(how, None)
        torch.testing.assert_close(search.losses, single.losses, rtol=1e-6, atol=0)
        assert search.reasons == single.reasons
        assert single.diverged_at is not None
    assert "plotly" not in sys.modules


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
    leave()
