"""Dropout without a stored mask: the mask is a function of a seed and of an element's position.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, 2011, "Parallel random numbers: as easy as 1, 2, 3").
The key holds the two halves of the seed. The counter is (column // 4, row, row >> 32, 0), and its
four numbers belong to four neighbouring columns. All kernels draw the same numbers, so every
backend drops the same elements.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


def draw_seed(device: torch.device) -> Tensor:
    """A seed, int64 of shape (), from torch's generator of the device."""
    return torch.randint(0, 2**62, (), dtype=torch.int64, device=device)


def threshold(dropout: float) -> int:
    """The limit for the 32-bit number of an element: below it, the element is dropped."""
    return min(round(dropout * 2**32), _LOW)


def keep_scale(
    shape: torch.Size, dims: int, dropout: float, seed: Tensor, dtype: torch.dtype
) -> Tensor:
    """A tensor of `shape` and `dtype`: 0 where an element is dropped, else 1 / (1 - dropout).

    Rows are the leading dimensions in order, columns are the last `dims` dimensions.
    """
    rows, columns = shape[:-dims].numel(), shape[-dims:].numel()
    row = torch.arange(rows, device=seed.device).unsqueeze(1)
    column = torch.arange((columns + 3) // 4, device=seed.device).unsqueeze(0)
    numbers = philox(seed, (column + 0 * row, row & _LOW, row >> 32, 0 * row))
    drawn = torch.stack(numbers, dim=-1).flatten(1)[:, :columns]
    keep = (drawn >= threshold(dropout)).to(dtype) * (1 / (1 - dropout))
    return keep.reshape(shape)


def philox(seed: Tensor, counter: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four 32-bit numbers per counter; seed, counters and numbers are int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        # The products can exceed int64 and wrap; the bits that are used stay right.
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (second >> 32 & _LOW) ^ c1 ^ k0, second & _LOW
        c2, c3 = (first >> 32 & _LOW) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3
