"""Batches: tensors and arrays, alone or nested in tuples, lists, dicts and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import signal
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metronorm.train.stop import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def map_tensors(
    batch: Any,
    change: Callable[[torch.Tensor], Any],
    *,
    other: Callable[[Any], Any] | None = None,
) -> Any:
    """The batch with every tensor changed; arrays become tensors first, all else stays.

    Containers keep their type, and nothing of the batch itself changes.

    Args:
        batch: anything.
        change: what to do with a tensor.
        other: what to do with an object that has a `to` of its own; None: look for tensors in it.
    """
    if isinstance(batch, np.ndarray):
        batch = _tensor(batch)
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if other is not None and callable(getattr(batch, "to", None)) and not isinstance(batch, type):
        return other(batch)

    def inside(value: Any) -> Any:
        return map_tensors(value, change, other=other)

    if isinstance(batch, MutableMapping):
        changed = copy.copy(batch)
        for name, value in batch.items():
            changed[name] = inside(value)
        return changed
    if isinstance(batch, Mapping):
        return {name: inside(value) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_make"):
        return batch._make(map(inside, batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map(inside, batch))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        twin: Any = copy.copy(batch)  # and not made anew: __post_init__ has seen these values
        for field in dataclasses.fields(batch):
            object.__setattr__(twin, field.name, inside(getattr(batch, field.name)))
        return twin
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on a device; copies do not wait. What has a `to` of its own moves itself."""
    return map_tensors(
        batch,
        lambda tensor: tensor.to(device, non_blocking=True),
        other=lambda value: value.to(device),
    )


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """All tensors and arrays of a batch, as tensors, in order."""
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(batch, keep)
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two batches hold the same tensors, bit for bit; all else is not looked at."""
    mine, theirs = tensors_of(one), tensors_of(other)
    return len(mine) == len(theirs) and all(map(_equal, mine, theirs))


def halves(batch: Any) -> tuple[Any, Any] | None:
    """Two halves of a batch, cut along the first dimension of every tensor.

    None if the tensors differ in this dimension, or have fewer than two rows.
    """
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors_of(batch)}
    if len(sizes) != 1 or (size := sizes.pop()) < 2:
        return None
    middle = size // 2
    return (
        map_tensors(batch, lambda tensor: tensor[:middle]),
        map_tensors(batch, lambda tensor: tensor[middle:]),
    )


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind not in "biufc":
        return array  # text and objects stay as they are
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    backward = any(stride < 0 for stride in native.strides)  # such as an image that was flipped
    return torch.from_numpy(native if native.flags.writeable and not backward else native.copy())


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.shape, one.dtype, one.layout) != (other.shape, other.dtype, other.layout):
        return False
    if one.layout is not torch.strided:
        return _equal(one.to_dense(), other.to_dense())
    # NaN equals NaN here, and every dtype has bytes
    return torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def iterate(batches: Iterable[Any]) -> Iterator[Any]:
    """`iter(batches)`, with the workers that a DataLoader starts here in a process group each.

    Ctrl-C in a terminal, `timeout` and many schedulers signal the whole group. The training
    finishes its tick and saves; workers that are killed meanwhile would end it with an error. Until
    a worker has left the group, it does not get these signals.
    """
    loader: Any = batches
    if not getattr(loader, "num_workers", 0) or not hasattr(loader, "worker_init_fn"):
        return iter(batches)
    before = loader.worker_init_fn
    loader.worker_init_fn = functools.partial(_leave_the_group, before)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in workers too
    try:
        return iter(batches)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        loader.worker_init_fn = before


def _leave_the_group(before: Callable[[int], object] | None, worker: int) -> None:
    """What a worker does first; a function of the module, so that it can be sent to one."""
    os.setpgid(0, 0)
    while signal.sigpending() & set(SIGNALS):  # sent to the group before
        signal.sigwait(SIGNALS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if before is not None:
        before(worker)
