"""How the GPU kernels address tensors and divide their work: rows, strides and tile sizes.

This module needs neither a GPU nor Triton.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Strides = tuple[int, int, int]

_MOST_WARPS = 16
_GROUP = 4  # columns that share a counter of the random generator of dropout
_STRIDED_ROWS = 8  # at least, in a tile where rows, not columns, are neighbours in memory
_NO_DEVICE_PROGRAMS = 3


class Rows(NamedTuple):
    """Tensors of one shape, seen as outer * inner rows of columns."""

    outer: int
    inner: int
    columns: int
    strides: list[Strides]  # for every tensor: the strides of outer, inner and column, in elements

    @property
    def strided(self) -> bool:
        """Whether the elements of a row are not neighbours in memory, in at least one tensor."""
        return self.columns > 1 and any(strides[2] > 1 for strides in self.strides)


class Tile(NamedTuple):
    """The part of a tensor that one program holds at a time; rows and columns are powers of two."""

    rows: int
    columns: int
    num_warps: int


def describe(tensors: Sequence[Tensor | None], dims: int) -> Rows | None:
    """The common rows of the tensors; None if three strides per tensor cannot describe them.

    Rows are counted in the order of the leading dimensions. The strides of absent tensors are 0.

    Args:
        tensors: all of one shape; None where a tensor is absent.
        dims: the number of trailing dimensions that form a row.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    shape = present[0].shape
    columns = shape[-dims:].numel()
    if all(tensor.is_contiguous() for tensor in present):
        strides = [(0, 0, 0) if tensor is None else (0, columns, 1) for tensor in tensors]
        return Rows(1, shape[:-dims].numel(), columns, strides)
    leading = _collapsed(shape[:-dims], [tensor.stride()[:-dims] for tensor in present])
    last = _collapsed(shape[-dims:], [tensor.stride()[-dims:] for tensor in present])
    if len(leading) > 2 or len(last) > 1:
        return None
    one = 1, (0,) * len(present)
    (outer, by_outer), (inner, by_inner) = [one] * (2 - len(leading)) + leading
    by_column = last[0][1] if last else (1,) * len(present)
    found = iter(zip(by_outer, by_inner, by_column, strict=True))
    strides = [(0, 0, 0) if tensor is None else next(found) for tensor in tensors]
    return Rows(outer, inner, columns, strides)


def _collapsed(
    sizes: torch.Size, strides: list[tuple[int, ...]]
) -> list[tuple[int, tuple[int, ...]]]:
    """(size, stride in every tensor) of each dimension.

    Neighbouring dimensions are joined where one stride can describe both, in every tensor.
    """
    found: list[tuple[int, tuple[int, ...]]] = []
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if found and all(
            before == step * size for before, step in zip(found[-1][1], steps, strict=True)
        ):
            size *= found.pop()[0]
        found.append((size, tuple(steps)))
    return found


def forward_tile(rows: Rows, dtype: torch.dtype) -> Tile:
    """The tile of a forward pass: whole rows where they fit into registers, else parts of rows."""
    return _tile(rows, dtype, most=16384, per_thread=16)


def backward_tile(rows: Rows, dtype: torch.dtype, *, summing: bool) -> tuple[Tile, bool]:
    """The tile of a backward pass, and whether the kernel also sums the weight gradients.

    Args:
        rows: the tensors.
        dtype: of the normalized tensor.
        summing: whether weight gradients are wanted. If their sums do not fit into the registers
            beside a whole row, another kernel computes them.
    """
    beside = _tile(rows, dtype, most=8192, per_thread=8)
    if beside.columns >= rows.columns:
        return beside, True
    alone = beside if rows.strided else _tile(rows, dtype, most=16384, per_thread=8)
    return alone, not summing


def weight_tile(rows: Rows) -> Tile:
    """The tile of the kernel that only sums over rows: parts of several rows."""
    return Tile(32, 64, 8) if rows.strided else Tile(8, 256, 8)


def _tile(rows: Rows, dtype: torch.dtype, most: int, per_thread: int) -> Tile:
    """A tile of at most `most` elements, with about `per_thread` elements for each thread."""
    wide = 2 if dtype == torch.float64 else 1
    most, per_thread = most // wide, per_thread // wide
    width = power_of_two(max(rows.columns, _GROUP))
    count = power_of_two(rows.inner)
    least = min(_STRIDED_ROWS, count) if rows.strided else 1
    if width * least > most:
        count, width = (min(32, count), 128 // wide) if rows.strided else (1, 4096)
    else:
        aim = most if rows.strided else 2048 // wide
        count = min(count, max(least, aim // width))
    warps = max(1, count * width // (32 * per_thread))
    return Tile(count, width, min(warps, _MOST_WARPS))


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least this positive number."""
    return 1 << (number - 1).bit_length()


def num_programs(device: torch.device, num_warps: int) -> int:
    """The number of programs that a device runs at once, if a thread takes 128 registers."""
    if device.type != "cuda":
        return _NO_DEVICE_PROGRAMS
    return _multiprocessors(device) * max(1, _MOST_WARPS // num_warps)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
