"""Batches: tensors and arrays, alone or nested in tuples, lists, dicts and dataclasses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def map_tensors(batch: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The batch with every tensor changed; arrays become tensors first, all else stays."""
    if isinstance(batch, np.ndarray):
        batch = _tensor(batch)
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {name: map_tensors(value, change) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        names = [field.name for field in dataclasses.fields(batch) if field.init]
        return dataclasses.replace(
            batch, **{name: map_tensors(getattr(batch, name), change) for name in names}
        )
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on a device; copies do not wait."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """All tensors and arrays of a batch, as tensors, in order."""
    found: list[torch.Tensor] = []
    map_tensors(batch, found.append)
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two batches hold equal tensors, NaN equal to NaN; all else is not looked at."""
    mine, theirs = tensors_of(one), tensors_of(other)
    return len(mine) == len(theirs) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, 0, 0, equal_nan=True)
        for a, b in zip(mine, theirs, strict=True)
    )


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
    return torch.from_numpy(array if array.flags.writeable else array.copy())
