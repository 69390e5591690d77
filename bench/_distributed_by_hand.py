"""What one would write with DDP or FSDP2 and no loop to call; and what it costs a process."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from metronorm.train.batches import to_device
from metronorm.train.optimizers import make_optimizer

if TYPE_CHECKING:
    from metronorm.tasks.text import Config
    from metronorm.train import Task

CPU = torch.device("cpu")


class ByHand:
    """A loop over the beats of a rank, with gradients shared in the last one (DDP) or each (FSDP2).

    Args:
        task: of text, whose batches all count as many tokens.
        config: of the training; `parallel` says by which.
        optimizer: "adamw", or "sgd" with momentum.
    """

    def __init__(self, task: Task, config: Config, *, optimizer: str = "adamw") -> None:
        self.task, self.config = task, config
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        torch.manual_seed(config.seed)
        model: nn.Module = task.model()
        if config.parallel == "fsdp":
            mesh = init_device_mesh("cpu", (self.world,))
            for block in model.blocks:  # type: ignore[union-attr]
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
            self.model: Any = model
        else:
            self.model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self.optimizer: torch.optim.Optimizer
        if optimizer == "sgd":
            self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        else:
            assert task.groups is not None
            groups = task.groups(model, config)
            self.optimizer = make_optimizer(model, config.optimizer, CPU, groups)
        self.done = 0
        self.losses: list[float] = []

    def tick(self) -> None:
        """The beats of this rank, and an update."""
        config, beats = self.config, self.config.micro_batches
        mine = range(self.rank, beats, self.world)
        total = torch.zeros(())
        for beat in mine:
            first = (self.done * beats + beat) * config.batch_size
            batch = to_device(self.task.batches.take(first, config.batch_size), CPU)  # type: ignore[union-attr]
            weight = self.world / (beats * self.task.count(batch))
            shared = config.parallel == "fsdp" or beat == mine[-1]
            with contextlib.nullcontext() if shared else self.model.no_sync():
                loss: Tensor = self.task.loss(self.model, batch) * weight
                loss.backward()
            total = total + loss.detach()
        distributed.all_reduce(total)
        if config.optimizer.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(total.item() / self.world)
        self.done += 1


def bytes_sent() -> int:
    """What this process has sent so far over its TCP connections, as the kernel counts it."""
    total = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if not str(path.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as each:
                if each.type == socket.SOCK_STREAM and each.family != socket.AF_UNIX:
                    told = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("<Q", told, 200)[0]  # tcpi_bytes_sent
    return total


def peak_mib(*, reset: bool = False) -> float:
    """The most memory this process has had in use; with `reset`, from now on."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
