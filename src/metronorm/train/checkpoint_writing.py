"""Checkpoints to disk, in two steps: a copy in the memory of the host, and the files.

The copy is all that the training has to wait for; the files can be written by another thread. Every
rank writes the rows that it holds, and nothing is gathered:

    every rank            the first rank                      if it ends here
    --------------------  ----------------------------------  ------------------------------------
                          makes a hidden temporary folder     the folder is left; see below
    writes its files,
    gives their hashes                                        the same
                          writes state.json, which lists all  the same
                          renames the folder                  the checkpoint is whole

A temporary folder is never taken for a checkpoint. It has the name of the first rank's process, and
is removed when that has ended (`files.remove_leftovers`). Between the steps all ranks learn whether
one has failed; then all of them fail, and older checkpoints are as they were.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from metronorm.errors import CheckpointError
from metronorm.files import directory_aside, remove_directory, sync
from metronorm.train.checkpoint_checks import (
    MODEL,
    MOST_STATE_BYTES,
    STATE,
    TENSORS,
    digest_file,
    digest_values,
    shard_name,
)
from metronorm.train.checkpoint_fingerprint import fingerprint
from metronorm.train.checkpoint_shards import (
    Part,
    Whole,
    dtype_name,
    format_fingerprint,
    is_sharded,
    part_of,
)
from metronorm.train.checkpoint_world import ONE_PROCESS, agreed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from metronorm.train.checkpoint_world import World


@dataclass(frozen=True)
class Taken:
    """What this rank writes of a checkpoint.

    Attributes:
        tick: the number of updates done.
        record: plain JSON values.
        model: the weights that this rank writes, by name; parts that another rank writes are empty.
        state: the same of the optimizer and of averages.
        sharded: whether ranks hold different parts.
        bytes: of host memory that the tensors take until they are written.
    """

    tick: int
    record: dict[str, Any]
    model: dict[str, Part]
    state: dict[str, Part]
    sharded: bool
    bytes: int
    wait: Callable[[], None]  # until the copies are made


def take(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    world: World = ONE_PROCESS,
    copy: bool = True,
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
        copy: False where the checkpoint is written before the training goes on: tensors are copied
            only where that is needed to write them.

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
        mine = [
            {name: _mine(part_of(tensor, world), copy) for name, tensor in each.items()}
            for each in (weights, more)
        ]
    return Taken(
        tick=state["tick"],
        record=msgspec.json.decode(msgspec.json.encode(record)),  # a copy
        model=mine[0],
        state=mine[1],
        sharded=sharded,
        bytes=sum(part.local.nbytes for each in mine for part in each.values()) if copy else 0,
        wait=_copied(weights) if copy else lambda: None,
    )


def _mine(part: Part, copy: bool) -> Part:
    """A part in memory of its own that can be written; without elements if another rank has it."""
    local = part.local
    if not part.is_first:
        nothing = local.new_empty((0, *part.shape[1:]), device="cpu")
        return part._replace(local=nothing, end=part.begin)
    if not copy:
        local = local.cpu()
        alone = local.untyped_storage().nbytes() == local.nbytes
        return part._replace(local=local.contiguous() if alone else _clone(local))
    if local.device.type == "cpu":
        return part._replace(local=_clone(local))
    # pinned memory is what a device can copy to while the host does something else
    host = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.device.type in _PINS)
    return part._replace(local=host.copy_(local, non_blocking=True))


_PINS = ("cuda", "xpu")


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


def write(directory: Path, taken: Taken, world: World = ONE_PROCESS) -> Path:
    """Write a checkpoint into `directory`; all of it, or nothing. All ranks call this.

    Args:
        directory: the run's `checkpoints` folder, the same for all ranks.
        taken: from `take`, with a world of the same size.
        world: the ranks that save together.

    Raises:
        OSError: the disk is full or not writable, for one rank at least; older checkpoints are as
            they were.
        CheckpointError: the ranks do not have the same tensors.
    """
    target = directory / f"tick-{taken.tick:08d}"
    with contextlib.ExitStack() as stack:

        def begin() -> str | None:
            if world.rank:
                return None
            directory.mkdir(parents=True, exist_ok=True)
            return stack.enter_context(directory_aside(target)).name

        def finish() -> None:
            if world.rank:
                return
            record = _record(taken, written)
            data = msgspec.json.format(msgspec.json.encode(record), indent=2)
            if len(data) > MOST_STATE_BYTES:
                raise OSError(errno.EFBIG, f"a {STATE} of {len(data)} bytes")
            (aside / STATE).write_bytes(data)
            if target.exists():  # left by an attempt that went further than the one resumed from
                remove_directory(target)
            stack.close()  # fsyncs and renames

        aside = directory / str(agreed(world, begin)[0])
        written = agreed(world, lambda: _write_mine(aside, taken, world))
        agreed(world, finish)
    return target


def _write_mine(aside: Path, taken: Taken, world: World) -> dict[str, Any]:
    """Write this rank's files; digests by name, and what this rank has of each tensor."""
    taken.wait()
    digests = {}
    if taken.sharded or world.rank == 0:
        for kind, parts in ((MODEL, taken.model), (TENSORS, taken.state)):
            name = shard_name(kind, world.rank, world.size) if taken.sharded else kind
            tensors = {
                name: part.local
                for name, part in parts.items()
                if world.rank == 0 or part.begin < part.end
            }
            try:
                save_file(tensors, aside / name)
            except SafetensorError as error:
                raise _os_error(error) from None
            sync(aside / name)  # by this rank, whose machine may be another than the first one's
            digests[name] = msgspec.to_builtins(digest_file(aside / name))
    if not taken.sharded:
        return {"files": digests}
    whole = [
        [name, dtype_name(part.local.dtype), part.shape]
        for parts in (taken.model, taken.state)
        for name, part in parts.items()
    ]
    shares = [
        [[part.begin, part.end, fingerprint(part.local, part.place)] for part in parts.values()]
        for parts in (taken.model, taken.state)
    ]
    same = hashlib.sha256(msgspec.json.encode(whole)).hexdigest()
    return {"files": digests, "same": same, "model": shares[0], "state": shares[1]}


def _record(taken: Taken, written: list[dict[str, Any]]) -> dict[str, Any]:
    """What `state.json` holds."""
    files = {name: digest for each in written for name, digest in each["files"].items()}
    record = {"format": 2 if taken.sharded else 1, "files": files, **taken.record}
    if taken.sharded:
        if len({each["same"] for each in written}) > 1:
            raise CheckpointError(
                "all ranks must have the same tensors to save",
                got="another name, dtype or shape on one of them",
            )
        record["shards"] = {
            kind: {
                name: _whole(part, [each[kind][number] for each in written])
                for number, (name, part) in enumerate(parts.items())
            }
            for kind, parts in (("model", taken.model), ("state", taken.state))
        }
    record["sha256"] = digest_values(record)
    return record


def _whole(part: Part, shares: list[tuple[int, int, int]]) -> dict[str, Any]:
    """A tensor, from the rows and the fingerprint that each rank has of it."""
    rows = [0]
    for begin, end, _ in shares:
        if begin < end and begin != rows[-1]:
            raise CheckpointError(
                "the shards of a tensor must lie on the ranks in the order of the ranks",
                got=f"rows from {begin} after the first {rows[-1]}",
            )
        rows.append(end if begin < end else rows[-1])
    while len(rows) > 2 and rows[-1] == rows[-2]:
        rows.pop()
    whole = Whole(
        dtype_name(part.local.dtype),
        part.shape,
        tuple(rows),
        format_fingerprint(sum(share for *_, share in shares)),
    )
    whole.check(len(shares))
    plain: dict[str, Any] = msgspec.to_builtins(whole)
    return plain


def _os_error(error: SafetensorError) -> OSError:
    """What the system said, when safetensors could not write: "... (os error 28)"."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, os.strerror(number) if found else str(error))


def save(
    directory: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    world: World = ONE_PROCESS,
) -> Path:
    """`take` and `write` in one; arguments and errors as of these."""
    taken = take(
        model=model, optimizer=optimizer, state=state, tensors=tensors, world=world, copy=False
    )
    return write(directory, taken, world)
