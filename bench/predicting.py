"""What `--dry-run` predicts for several processes, against what they hold and send.

A model of repeated layers is trained on 1, 2 and 4 processes of this machine, with gloo. Each says
how far the memory of its process rises over what it was before the model was made (the kernel's
count, VmHWM), and what its sockets send in a tick (the kernel's count, TCP_INFO). Both are compared
with the prediction that one process makes. Rows go to `results/predicting.csv`.

    python bench/predicting.py
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from metronorm.planning import plan
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig, loop, preparing, train

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "predicting"
WORLDS = (1, 2, 4)
OPTIMIZERS = ("adamw", "ticks", "ticks, clipped", "ticks_muon")
BEATS, ROWS = 4, 256
FIRST, LAST = 3, 5  # ticks that are measured, between which nothing is evaluated or saved
BYTES_ACKNOWLEDGED = 120  # where they stand in Linux's struct tcp_info


@dataclass(frozen=True)
class Config(TrainConfig):
    """A model of some width."""

    width: int = 512
    layers: int = 6


class Block(nn.Module):
    """Adds to its input what two matrices make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, width) the same."""
        narrow: Tensor = self.narrow(nn.functional.gelu(self.wide(self.norm(x))))
        return x + narrow


class Net(nn.Module):
    """Blocks between two matrices that are in none of them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.first = nn.Linear(64, config.width)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.layers))
        self.last = nn.Linear(config.width, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, 64) the same."""
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.last(x)
        return y


def task(config: Config, hooks: tuple[Hook, ...] = ()) -> Task:
    """Noise, of which there is always more."""
    rows = torch.randn(ROWS, 64)
    return Task(
        model=lambda: Net(config),
        batches=[rows] * 64,
        loss=lambda model, batch: (model(batch) - batch).square().sum(),
        count=len,
        hooks=hooks,
    )


def config_of(parallel: Any, optimizer: str, **changes: Any) -> Config:
    """A few ticks, at whose end there is a checkpoint."""
    name, _, clipped = optimizer.partition(", ")
    clip = 1.0 if clipped or name in ("adamw", "ticks_muon") else 0.0
    return Config(
        ticks=LAST + 1,
        micro_batches=BEATS,
        precision="fp32",
        allocator="system",
        device="cpu",
        parallel=parallel,
        optimizer=OptimizerConfig(name=name, clip=clip, learning_rate=1e-4),  # type: ignore[arg-type]
        **changes,
    )


def rank(
    parallel: str, optimizer: str, number: int, world: int, folder: str, **changes: int
) -> None:
    """Train as one of several processes; print bytes held over the start and sent in a tick."""
    if world > 1:
        store = f"file://{folder}/store"
        wait = timedelta(seconds=120)
        distributed.init_process_group("gloo", store, wait, rank=number, world_size=world)
    for module in (loop, preparing):
        vars(module)["keep_large_blocks"] = lambda keep: False  # as `give_back_blocks` decides
    small = config_of(parallel, optimizer, width=64, layers=2)
    train(task, small, Path(folder, "small"))  # loads libraries, opens sockets, makes buffers
    found = {"sent": 0, "held": 0}

    def look(moment: Moment) -> None:
        if moment.tick == FIRST:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            found["sent"] = -sent_bytes()
        if moment.tick == LAST:
            found["sent"] = (found["sent"] + sent_bytes()) // (LAST - FIRST)
            found["held"] = memory("VmHWM") - before

    gc.collect()
    give_back_blocks()
    before = memory("VmRSS")
    config = config_of(parallel, optimizer, **changes)
    train(task(config, (Hook(1, look),)), config, Path(folder, "measured"))
    print(json.dumps(found), flush=True)
    os._exit(0)  # a thread of gloo's (torch 2.13) now and then aborts the process at its end


def give_back_blocks() -> None:
    """From now on freed blocks go back to the system: what is held is what is in use."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
    libc.malloc_trim(0)


def memory(name: str) -> int:
    """Bytes that the kernel counts of this process."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def sent_bytes() -> int:
    """Bytes that have arrived of what this process has sent through TCP."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not str(link.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as one:
                state = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:  # it is closed, or no TCP
            continue
        total += struct.unpack_from("Q", state, BYTES_ACKNOWLEDGED)[0]
    return total


def measured(
    parallel: str, optimizer: str, world: int, changes: Mapping[str, int]
) -> list[dict[str, int]]:
    """What each rank of a training has found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen(
                [
                    *(sys.executable, __file__, parallel, optimizer, str(number), str(world)),
                    *(folder, json.dumps(changes)),
                ],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(world)
        ]
        said = [each.communicate()[0] for each in ranks]
    return [json.loads(text) for text in said]


def main() -> None:
    from _rows import append

    for optimizer in OPTIMIZERS:
        for parallel in ("ddp", "fsdp"):
            for world in WORLDS:
                if world == 1 and parallel == "fsdp":
                    continue
                predicted = plan(task, config_of(parallel, optimizer), processes=world).prediction
                found = measured(parallel, optimizer, world, {})
                case = f"{optimizer}, {world} x {parallel}" if world > 1 else f"{optimizer}, alone"
                held = [100 * (predicted.held_bytes / each["held"] - 1) for each in found]
                append(NAME, f"{case}, held", "MiB", [each["held"] / 2**20 for each in found])
                append(NAME, f"{case}, held, prediction too high by", "%", held)
                if world > 1:
                    sent = [100 * (predicted.sent_bytes / each["sent"] - 1) for each in found]
                    append(NAME, f"{case}, sent", "MiB", [each["sent"] / 2**20 for each in found])
                    append(NAME, f"{case}, sent, prediction too high by", "%", sent)


if __name__ == "__main__":
    if sys.argv[1:]:
        parallel, optimizer, number, world, folder, changes = sys.argv[1:]
        rank(parallel, optimizer, int(number), int(world), folder, **json.loads(changes))
    main()
