"""What a checkpoint holds, copied to the memory of the host at the end of a tick.

The copy is all that the training waits for; another thread can write the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from metronorm.checkpoints.shards import Part, is_sharded, part_of
from metronorm.checkpoints.world import ONE_PROCESS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from metronorm.checkpoints.world import World

_PINS = ("cuda", "xpu")  # devices that copy to pinned memory while the host does something else


@dataclass(frozen=True)
class Taken:
    """What this rank writes of a checkpoint.

    Attributes:
        tick: the number of updates done.
        record: plain JSON values.
        model: the weights that this rank writes, by name; parts that another rank writes are empty.
        state: the same of the optimizer and of averages.
        sharded: whether ranks hold different parts.
        copied: whether the training may go on before it is written.
        bytes: of host memory that the copies take until they are written.
    """

    tick: int
    record: dict[str, Any]
    model: dict[str, Part]
    state: dict[str, Part]
    sharded: bool
    copied: bool
    bytes: int
    wait: Callable[[], None]  # until the copies are made


def take(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    world: World = ONE_PROCESS,
    most_copied: int | None = None,
    memory: Taken | None = None,
) -> Taken:
    """What a checkpoint of this moment holds, for `write`; training may go on meanwhile.

    Nothing waits for another rank, and on a GPU nothing waits for the copies either.

    Args:
        model: whose weights to keep.
        optimizer: whose state to keep.
        state: whatever else a resumed run needs, as plain JSON values; with `tick`, the number of
            updates done.
        tensors: more to keep beside the optimizer's, such as averages of the weights.
        world: the ranks that save together.
        most_copied: bytes; None: any number. Of more nothing is copied but what must be, to write
            it: the checkpoint must be written before the training goes on.
        memory: an earlier one that is no longer needed: this one is put where it was, as far as the
            tensors are alike. New memory makes a copy take three times as long.

    Raises:
        CheckpointError: tensors that are sharded in a way that cannot be saved.
    """
    kept = optimizer.state_dict()
    more = dict(tensors or {})
    plain: dict[str, dict[str, Any]] = {}
    for index, values in kept["state"].items():
        plain[str(index)] = {}
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                more[f"optimizer.{index}.{key}"] = value
            else:
                plain[str(index)][key] = value
    weights = distinct(model.state_dict(keep_vars=True))
    sharded = world.size > 1 and any(map(is_sharded, (*weights.values(), *more.values())))
    record = {"optimizer": {"state": plain, "param_groups": kept["param_groups"]}, **state}
    with torch.no_grad():
        parts = [
            {name: part_of(tensor, world) for name, tensor in each.items()}
            for each in (weights, more)
        ]
        size = sum(part.local.nbytes for each in parts for part in each.values())
        copy = most_copied is None or size <= most_copied
        earlier = (memory.model, memory.state) if memory and memory.copied else ({}, {})
        mine = [
            {name: _mine(part, copy, into.get(name)) for name, part in each.items()}
            for each, into in zip(parts, earlier, strict=True)
        ]
    return Taken(
        tick=state["tick"],
        record=msgspec.json.decode(msgspec.json.encode(record)),  # a copy
        model=mine[0],
        state=mine[1],
        sharded=sharded,
        copied=copy,
        bytes=sum(part.local.nbytes for each in mine for part in each.values()) if copy else 0,
        wait=_copied(weights) if copy else lambda: None,
    )


def _mine(part: Part, copy: bool, into: Part | None) -> Part:
    """A part in memory of its own that can be written; without elements if another rank has it."""
    local = part.local
    if not part.is_first:
        nothing = local.new_empty((0, *part.shape[1:]), device="cpu")
        return part._replace(local=nothing, end=part.begin)
    if not copy:
        local = local.cpu()
        alone = local.untyped_storage().nbytes() == local.nbytes
        return part._replace(local=local.contiguous() if alone else _clone(local))
    if into and (into.local.shape, into.local.dtype) == (local.shape, local.dtype):
        host = into.local
    else:
        host = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.device.type in _PINS)
    return part._replace(local=host.copy_(local, non_blocking=True))


def _clone(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _copied(weights: Mapping[str, Tensor]) -> Callable[[], None]:
    """A function that waits until the copies are made that were begun before this call."""
    events = []
    for device in {tensor.device for tensor in weights.values() if tensor.device.type in _PINS}:
        event = torch.Event(device)
        event.record()
        events.append(event)

    def wait() -> None:
        for event in events:
            event.synchronize()

    return wait


def distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once: names that share one, as of tied weights, become the first of them."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        # parts of DTensors may be empty, but their parameters are objects of their own
        place: Any = id(tensor)
        if not is_sharded(tensor):
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        found[name] = tensor
    return found
