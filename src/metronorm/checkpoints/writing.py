"""Checkpoints to disk: every rank writes the rows that it holds, and no tensor is gathered.

    all ranks                    | the first rank
    -----------------------------|------------------------------------------
                                 | makes a hidden temporary folder
    write their files, fsynced   |
    exchange sizes and hashes    |
                                 | writes state.json, which lists all files
                                 | renames the folder: it is a checkpoint

After each step all ranks learn whether one has failed. Then all of them fail, the first removes the
folder, and older checkpoints are as they were. If the first rank is killed, the folder is left. It
is never taken for a checkpoint, and its name has the process that it belongs to: when that is gone,
`files.remove_leftovers` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import save_file

from metronorm.checkpoints.checks import (
    MODEL,
    MOST_STATE_BYTES,
    STATE,
    TENSORS,
    digest_file,
    digest_values,
    shard_name,
)
from metronorm.checkpoints.fingerprint import fingerprint
from metronorm.checkpoints.shards import Part, Whole, dtype_name, format_fingerprint
from metronorm.checkpoints.taking import Taken, take
from metronorm.checkpoints.world import ONE_PROCESS, agreed
from metronorm.errors import CheckpointError
from metronorm.files import directory_aside, remove_directory, sync

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from metronorm.checkpoints.world import World


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
        model=model, optimizer=optimizer, state=state, tensors=tensors, world=world, most_copied=0
    )
    return write(directory, taken, world)
