"""One of the processes of bench/distributed.py: PART RANK WORLD STORE FOLDER ...

Its last line is what it found, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _distributed_by_hand import ByHand, bytes_sent, peak_mib
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from metronorm.data.config import TextConfig
from metronorm.models.config import GPTConfig
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.train import Hook, OptimizerConfig, train

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.train import Moment, Task

STATES, APART = 20, 10
NEVER = 2**62
SMALL = GPTConfig(context=32, layers=2, heads=2, width=32, dropout=0.1)
MIDDLE = GPTConfig(context=128, layers=4, heads=4, width=128)
LARGE = GPTConfig(context=32, layers=6, heads=6, width=384)
OPTIONS: dict[str, Any] = {
    "precision": "fp32", "allocator": "keep", "device": "cpu", "sample_every": 0,
    "evaluate_every": NEVER, "checkpoint_every": NEVER,
}  # fmt: skip
ADAMW = OptimizerConfig(schedule="constant", warmup=0.0)


def main() -> None:
    part, rank, world, store, folder = sys.argv[1:6]
    if int(world) > 1:
        distributed.init_process_group(
            "gloo", f"file://{store}", timedelta(minutes=10), rank=int(rank), world_size=int(world)
        )
    found = PARTS[part](int(rank), int(world), Path(folder), *sys.argv[6:])
    print(json.dumps(found), flush=True)
    os._exit(0)  # where Python tears down gloo's threads, one of them may abort the process


def small(model: GPTConfig, **changes: Any) -> tuple[Task, Any]:
    """A GPT on characters, without what a benchmark does not want."""
    config = text.Config(text=TextConfig(), model=model, **{**OPTIONS, **changes})
    task = text.task(config)
    return replace(task, validation=None, config=None, hooks=[]), config


# --- gradients ------------------------------------------------------------------------------------


def states(rank: int, world: int, folder: Path) -> None:
    """Train a small GPT in float64, and save its weights now and then."""
    task, config = small(SMALL, optimizer=ADAMW, ticks=STATES * APART, batch_size=4)

    def save(moment: Moment) -> None:
        values = {name: each.detach().clone() for name, each in moment.model.named_parameters()}
        save_file(values, folder / f"state-{moment.tick // APART}.safetensors")

    task = replace(task, model=in_dtype(task, torch.float64), hooks=[Hook(APART, save)])
    train(task, config, folder / "states")


def in_dtype(task: Task, dtype: torch.dtype) -> Any:
    return lambda: task.model().to(dtype)


def gradients(rank: int, world: int, folder: Path) -> None:
    """One tick from each state; rank 0 saves what it has seen."""
    for parallel in ("ddp", "fsdp") if world > 1 else ("ddp",):
        for beats in (4, 6):
            for dtype in (torch.float64, torch.float32):
                name = f"{str(dtype).removeprefix('torch.')}-{beats} beats"
                seen = one_tick_each(folder, parallel, beats, dtype, ADAMW)
                if rank == 0:
                    kept = {key: each for key, each in seen.items() if key[0] == "g"}
                    save_file(kept, folder / f"{world}-{parallel}-gradient-{name}.safetensors")
        for optimizer in ("adamw", "ticks_muon"):
            options = replace(ADAMW, name=optimizer, clip=0.0)
            seen = one_tick_each(folder, parallel, 4, torch.float32, options)
            if rank == 0:
                kept = {key: each for key, each in seen.items() if key[0] == "u"}
                name = f"{world}-{parallel}-update-{optimizer}-float32-4 beats"
                save_file(kept, folder / f"{name}.safetensors")


def one_tick_each(
    folder: Path, parallel: str, beats: int, dtype: torch.dtype, optimizer: OptimizerConfig
) -> dict[str, Tensor]:
    """The window's gradient and the update of each state, as vectors over all parameters."""
    task, config = small(
        SMALL, optimizer=replace(optimizer, clip=0.0), ticks=STATES, batch_size=4,
        micro_batches=beats, parallel=parallel,
    )  # fmt: skip
    seen: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def around(moment: Moment) -> Iterator[None]:
        state = load_file(folder / f"state-{moment.tick}.safetensors")
        parameters = dict(moment.model.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                value: Tensor = state[name].to(dtype)
                if isinstance(parameter, DTensor):
                    value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
                parameter.copy_(value)

        def look(*_: Any) -> None:
            seen[f"g{moment.tick}"] = vector(each.grad for each in parameters.values())

        before = vector(parameters.values())
        hook = moment.optimizer.register_step_pre_hook(look)
        yield
        hook.remove()
        seen[f"u{moment.tick}"] = vector(parameters.values()) - before

    hooks = [Hook(1, lambda moment: None, around=around)]
    task = replace(task, model=in_dtype(task, dtype), hooks=hooks)
    name = f"{optimizer.name}-{parallel}-{beats}-{dtype}-{time.time_ns()}"
    train(task, config, folder / distributed_name(name))
    return seen


def distributed_name(name: str) -> str:
    """The same name on all ranks: rank 0's."""
    names = [name]
    if distributed.is_initialized():
        distributed.broadcast_object_list(names)
    return names[0]


def vector(tensors: Any) -> Tensor:
    found = [getattr(each, "full_tensor", lambda each=each: each)() for each in tensors]
    return torch.cat([each.detach().flatten() for each in found])


# --- losses ---------------------------------------------------------------------------------------


def losses(
    rank: int, world: int, folder: Path, parallel: str, optimizer: str, ticks: str, seed: str
) -> dict[str, Any]:
    """The preset `quick`, with two beats where it has one."""
    quick: Any = text.training_preset("quick")
    options = quick.optimizer
    if optimizer == "adamw":
        options = replace(options, name="adamw", learning_rate=2e-3, clip=1.0)
    config = replace(
        quick, optimizer=options, batch_size=quick.batch_size // 2, micro_batches=2,
        ticks=int(ticks), seed=int(seed), parallel=parallel, **OPTIONS,
    )  # fmt: skip
    run = folder / f"{optimizer}-{parallel}-{seed}"
    outcome = train(text.task, config, run)
    rows = open_run(run).ticks().rows() if rank == 0 else []
    kept = [row["loss"] for row in rows if row["rank"] in (0, -1, None)]
    return {"validation": outcome.measures["loss"], "losses": kept}


# --- overhead -------------------------------------------------------------------------------------


def overhead(rank: int, world: int, folder: Path, parallel: str, rounds: str) -> dict[str, Any]:
    """Milliseconds of a tick of both loops, in turns of some ticks."""
    turn_ticks = 5
    task, config = small(
        MIDDLE, optimizer=ADAMW, ticks=(int(rounds) + 1) * turn_ticks, batch_size=8,
        micro_batches=4, parallel=parallel,
    )  # fmt: skip
    by_hand = ByHand(task, config)
    spent: dict[str, list[float]] = {"loop": [], "by hand": []}
    begin = time.perf_counter()

    def turn(moment: Moment) -> None:
        nonlocal begin
        distributed.barrier()
        middle = time.perf_counter()
        for _ in range(turn_ticks):
            by_hand.tick()
        distributed.barrier()
        end = time.perf_counter()
        if moment.tick > turn_ticks:  # the first turn makes the optimizers' state
            spent["loop"].append((middle - begin) / turn_ticks * 1e3)
            spent["by hand"].append((end - middle) / turn_ticks * 1e3)
        begin = time.perf_counter()

    train(replace(task, hooks=[Hook(turn_ticks, turn)]), config, folder / "run")
    rows = [row for row in open_run(folder / "run").ticks().rows() if row["rank"] == rank]
    for row, theirs in zip(rows, by_hand.losses, strict=True):
        if abs(row["loss"] - theirs) > 1e-3 * theirs:
            raise SystemExit(f"not the same work: {row['loss']} and {theirs}")
    return spent


# --- costs ----------------------------------------------------------------------------------------


def costs(
    rank: int, world: int, folder: Path, parallel: str, who: str, optimizer: str
) -> dict[str, float]:
    """MB sent in a tick, and peak MiB over what the process has before there is a model."""
    ticks = 6
    options = replace(ADAMW, name="ticks" if optimizer == "ticks" else "adamw", clip=0.0)
    task, config = small(
        LARGE,
        optimizer=options,
        ticks=ticks,
        batch_size=2,
        micro_batches=4,
        parallel=parallel,
        allocator="system",  # as by hand: "keep" holds freed blocks, here 40 MiB of them
    )
    base = peak_mib(reset=True)
    sent = [0, 0]

    def look(tick: int) -> None:
        if tick in (2, ticks):
            sent[tick == ticks] = bytes_sent()

    if who == "loop":
        hook = Hook(1, lambda moment: look(moment.tick))
        train(replace(task, hooks=[hook]), config, folder / "run")
    else:
        by_hand = ByHand(task, config, optimizer=optimizer)
        for tick in range(1, ticks + 1):
            by_hand.tick()
            look(tick)
    return {"sent": (sent[1] - sent[0]) / (ticks - 2) / 1e6, "peak": peak_mib() - base}


PARTS: dict[str, Any] = {
    "states": states, "gradients": gradients, "losses": losses, "overhead": overhead,
    "costs": costs,
}  # fmt: skip

if __name__ == "__main__":
    main()
