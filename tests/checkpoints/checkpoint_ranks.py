"""One of four processes that save and load checkpoints in worlds of one to four: RANK STORE FOLDER.

Each world holds its own model, sharded by FSDP2 where it has several ranks. What one world saves,
another one must get back, bit for bit.
"""

from __future__ import annotations

import resource
import sys
import threading
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).parents[2]))

from metronorm.checkpoints import checkpoint
from metronorm.errors import CheckpointError
from metronorm.optim import Ticks, TicksMuon
from metronorm.train.averages import Averages
from metronorm.train.config import TrainConfig
from tests.side_by_side import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RANK, SIZE, FOLDER = int(sys.argv[1]), 4, Path(sys.argv[3])


class Group:
    """The first ranks, as checkpoints see them."""

    def __init__(self, size: int, mesh: DeviceMesh | None = None) -> None:
        self.rank, self.size = RANK, size
        self.group = distributed.new_group(list(range(size)))
        self.mesh = mesh or (DeviceMesh("cpu", list(range(size))) if size > 1 else None)

    def gather(self, value: bytes) -> list[bytes]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(value)]), group=self.group)
        longest = int(max(lengths))
        padded = torch.tensor(list(value.ljust(longest)), dtype=torch.uint8)
        found = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(found, padded, group=self.group)
        return [bytes(f[:n].tolist()) for f, n in zip(found, map(int, lengths), strict=True)]


class Net(nn.Module):
    """No size is a multiple of the number of ranks; three of four have no part of `scale`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 7), nn.Linear(7, 3)
        self.narrow = nn.Linear(3, 5, dtype=torch.bfloat16)
        self.tied = nn.Linear(5, 7, bias=False)
        self.tied.weight = self.inner.weight
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.tensor(3))
        self.register_buffer("table", torch.arange(6.0).view(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.outer(torch.tanh(self.inner(x)) + self.tied(x)) * self.scale
        return self.narrow(y.bfloat16()).float().square().sum()


def make_model(world: Group, seed: int) -> Any:
    torch.manual_seed(seed)
    model = Net()
    if world.mesh is None:
        return model
    fully_shard(model.narrow, mesh=world.mesh)
    return fully_shard(model, mesh=world.mesh)


def make_optimizer(kind: str, model: nn.Module) -> Any:
    parameters = list(model.parameters())
    if kind == "AdamW":
        return torch.optim.AdamW(parameters, lr=0.01)
    if kind == "TicksMuon":
        vectors = [p for p in parameters if p.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim == 2]},
            {"params": vectors[:2], "method": "adamw", "lr": 0.01},
            {"params": vectors[2:], "method": "ticks"},
        ]
        return TicksMuon(groups, lr=0.01)
    return Ticks(parameters, 0.01, max_grad_norm=1.0 if kind == "Ticks, clipped" else None)


KINDS = ("AdamW", "Ticks", "Ticks, clipped", "TicksMuon")


class Training:
    def __init__(self, world: Group, kind: str, seed: int) -> None:
        self.world = world
        self.model = make_model(world, seed)
        self.optimizer = make_optimizer(kind, self.model)
        self.averages = Averages(self.model, TrainConfig(ticks=4, ema=0.9, average_last=0.5))

    def beat(self) -> None:
        self.model(torch.randn(4, 5)).backward()

    def go(self) -> None:
        for tick in (1, 2, 3):
            self.beat()
            self.optimizer.step()
            if isinstance(self.optimizer, torch.optim.AdamW):
                self.optimizer.zero_grad()
            self.averages.update(tick)
        if not isinstance(self.optimizer, torch.optim.AdamW):
            self.beat()  # in the middle of a window

    def arguments(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "state": {"tick": 3},
            "tensors": self.averages.tensors(),
        }

    def whole(self) -> dict[str, Any]:
        """All there is, gathered."""
        state = self.optimizer.state_dict()
        values = {f"{i} {k}": v for i, each in state["state"].items() for k, v in each.items()}
        weights = self.model.state_dict()
        return {k: full(v) for k, v in {**weights, **values, **self.averages.tensors()}.items()}


def full(value: Any) -> Any:
    value = value.full_tensor() if hasattr(value, "full_tensor") else value
    return value.detach().clone() if isinstance(value, Tensor) else value


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    for name, value in one.items():
        if isinstance(value, Tensor):
            wide = name.endswith(" window")  # the optimizers load those in float32
            assert wide or value.dtype == other[name].dtype, name
            assert torch.equal(value, other[name].to(value.dtype)), name
        else:
            assert value == other[name], name


# --- cases ----------------------------------------------------------------------------------------


def load(folder: Path, world: Group, kind: str, expected: dict[str, Any]) -> None:
    """Into another model and optimizer of the world, which then goes on."""
    new = Training(world, kind, seed=1)
    found = checkpoint.open_checkpoint(folder / "tick-00000003", world)
    found.load_model(new.model, world=world)
    found.load_optimizer(new.optimizer, new.averages, world=world)
    got = new.whole()
    if RANK == 0:
        check_same(got, expected)
    if kind == "Ticks":
        for parameter, values in new.optimizer.state.items():
            assert parameter.grad is values["accumulated"]
            assert values["open"]
    new.beat()
    new.optimizer.step()
    found.load_model(new.model, average="ema", world=world)
    weights = {name: full(value) for name, value in new.model.state_dict().items()}
    if RANK == 0:
        assert torch.equal(weights["inner.weight"], expected["average.ema.inner.weight"])


def every_pair(kind: str) -> None:
    """Saved by one world, and loaded by another."""
    for world in WORLDS:
        folder, expected = FOLDER / f"{kind} {world.size}", {}
        if world.size > RANK:
            training = Training(world, kind, seed=0)
            training.go()
            expected = training.whole()
            path = checkpoint.save(folder, world=world, **training.arguments())
            plain = {"model.safetensors", "state.safetensors", "state.json"}
            names = {file.name for file in path.iterdir()}
            assert names == plain if world.size == 1 else len(names) == 2 * world.size + 1
        distributed.barrier()
        for other in WORLDS[:3]:
            if other.size > RANK:
                load(folder, other, kind, expected)
            distributed.barrier()


def copies_of_shards(*ranks: list[int]) -> None:
    """Sharded in a group, with a copy in the other one: each shard is written once."""
    mesh = DeviceMesh("cpu", list(ranks), mesh_dim_names=("copies", "shards"))
    world, folder = Group(SIZE, mesh), FOLDER / f"copies {ranks}"
    training = Training(world, "Ticks", seed=0)
    training.go()
    expected = training.whole()
    path = checkpoint.save(folder, world=world, **training.arguments())
    sizes = [file.stat().st_size for file in sorted(path.glob("state-*"))]
    assert [size > 200 for size in sizes] == [rank in ranks[0] for rank in range(SIZE)], sizes
    load(folder, world, "Ticks", expected)
    distributed.barrier()
    if RANK == 0:
        load(folder, WORLDS[0], "Ticks", expected)
    distributed.barrier()


def by_a_thread() -> None:
    """Written while the training goes on, which changes all that was taken."""
    world, folder = WORLDS[-1], FOLDER / "by a thread"
    training = Training(world, "AdamW", seed=0)
    training.go()
    expected = training.whole()
    taken = checkpoint.take(world=world, **training.arguments())
    assert taken.bytes == sum(
        getattr(each, "to_local", lambda each=each: each)().nbytes
        for each in tensors_of(training)
        if RANK == 0 or hasattr(each, "to_local")
    )
    own = Group(SIZE)  # collectives of two threads must not meet in one group
    errors: list[BaseException] = []

    def write() -> None:
        try:
            checkpoint.write(folder, taken, own)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    training.go()
    thread.join()
    assert not errors, errors
    load(folder, world, "AdamW", expected)


def tensors_of(training: Training) -> list[Tensor]:
    """All that a checkpoint keeps; a tied weight once."""
    states = training.optimizer.state.values()
    kept = [value for each in states for value in each.values() if isinstance(value, Tensor)]
    weights = [*training.model.parameters(), *training.model.buffers()]
    return [*weights, *kept, *training.averages.tensors().values()]


def no_room_for_one() -> None:
    """One rank finds no room: all ranks fail alike, and what was there stays."""
    world, folder = WORLDS[-1], FOLDER / "no room"
    training = Training(world, "Ticks", seed=0)
    training.go()
    checkpoint.save(folder, world=world, **training.arguments())
    before = sorted(folder.rglob("*"))
    distributed.barrier()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if RANK == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    later = {**training.arguments(), "state": {"tick": 4}}
    with pytest.raises(OSError, match="File too large") as caught:
        checkpoint.save(folder, world=world, **later)
    assert ("(rank 1)" in str(caught.value)) == (RANK != 1), caught.value
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    distributed.barrier()
    assert sorted(folder.rglob("*")) == before
    load(folder, world, "Ticks", training.whole())


def refused_shards() -> None:
    """By columns; and by more ranks than those that save."""
    from torch.distributed.tensor import Shard

    world = WORLDS[1]
    if world.size > RANK:
        model = fully_shard(
            nn.Linear(4, 4, bias=False), mesh=world.mesh, shard_placement_fn=lambda _: Shard(1)
        )
        refused(model, world, "divided by rows")
        model = fully_shard(nn.Linear(4, 4), mesh=world.mesh)
        refused(model, WORLDS[0], "must be of the same ranks")


def refused(model: nn.Module, world: Group, part: str) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(CheckpointError, match=part):
        checkpoint.take(model=model, optimizer=optimizer, state={"tick": 1}, world=world)


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    for kind in KINDS:
        yield kind, partial(every_pair, kind)
    yield "copies", partial(copies_of_shards, [0, 1], [2, 3])
    yield "copies in turns", partial(copies_of_shards, [0, 2], [1, 3])
    yield "by a thread", by_a_thread
    yield "no room for one", no_room_for_one
    yield "refused", refused_shards


def main() -> None:
    failed = []
    for name, case in cases():
        try:
            case()
        except Exception as error:  # goes on with the next, and fails in the end
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}")
            break
    if failed:
        sys.exit("\n".join(failed))


store = distributed.FileStore(sys.argv[2], SIZE)
distributed.init_process_group(
    "gloo", store=store, rank=RANK, world_size=SIZE, timeout=timedelta(seconds=30)
)
WORLDS = [Group(size) for size in range(1, SIZE + 1)]
try:
    main()
    # Who leaves first closes the connections on which another may still be receiving.
    store.set(f"finished {RANK}", "")
    store.wait([f"finished {rank}" for rank in range(SIZE)])
finally:
    distributed.destroy_process_group()
leave()
