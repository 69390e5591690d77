"""One of two processes that train `Everything` on half a batch each: ddp|fsdp|changed RANK STORE.

The process exits with an error unless it ends up with what one process gets from the whole batch;
`changed`, unless it notices that sharded weights have become too small to divide by.
"""

import sys
import warnings
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.norm.everything import WIDTH, Everything
from tests.side_by_side import leave


def train(model: nn.Module, x: torch.Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).sin().mean().backward()
        optimizer.step()


def sharded(model: Everything) -> Everything:
    for name, module in model.named_children():
        if name != "image":  # the root shards it: it returns a view, and torch would warn
            fully_shard(module)
    return fully_shard(model)


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def equal_to_one_process(how: str, rank: int) -> None:
    x = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))
    for save in ("input", "output"):
        torch.manual_seed(0)
        alone = Everything(save=save)
        torch.manual_seed(0)
        model = Everything(save=save)
        shared = DistributedDataParallel(model) if how == "ddp" else sharded(model)
        train(alone, x)
        train(shared, x.chunk(2)[rank])
        for name, want in alone.named_parameters():
            got = whole(model.get_parameter(name))
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(whole(model.get_parameter(name).grad), want.grad)


def changed_weights_are_noticed(rank: int) -> None:
    torch.manual_seed(0)
    model = sharded(Everything(save="output"))
    train(model, torch.randn(3, WIDTH), steps=1)
    with torch.no_grad():
        model.norm.weight.zero_()
    train(model, torch.randn(3, WIDTH), steps=1)
    assert all(whole(weight.grad).isfinite().all() for weight in model.parameters())


def main(how: str, rank: int, path: str) -> None:
    store = distributed.FileStore(path, 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        if how == "changed":
            changed_weights_are_noticed(rank)
        else:
            equal_to_one_process(how, rank)
        # The first process to leave would close connections that the other one still reads from.
        store.set(f"finished {rank}", "")
        store.wait(["finished 0", "finished 1"])
    finally:
        distributed.destroy_process_group()


warnings.filterwarnings("ignore", "metronorm.norm runs on torch", UserWarning)
main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
leave()
