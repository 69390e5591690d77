"""A fingerprint of a tensor that its parts can be given in any order, from any number of ranks.

Element `i` of the flattened tensor, with the bits `b`, is taken as

    S(i // BLOCK) * T(i % BLOCK) * mix(b)     modulo 2**64

and the fingerprint is the sum over all elements, modulo 2**64. `S` and `T` are pseudo-random odd
numbers: one for each block of the flattened tensor, one for each place in a block. So an element
that has another value or another place changes the sum, and ranks may add up their parts.
`mix(b) = x ^ (x >> 32)` with `x = b * odd` lets the upper bits of an element, such as its sign,
reach the lower bits of the product; without it a sum modulo 2**64 would lose them.

What it finds: rows that are permuted, stale, missing or in the place of others; it misses one such
mistake in about 2**63. It does not see that zeros have changed places with zeros, nor a tensor's
shape and dtype: a checkpoint states these. It is no cryptographic hash: whoever wants to can make
another tensor of the same fingerprint. Damage and forgery are found by the SHA-256 of the files.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 15  # elements: a few quarters of a megabyte of int64, which the caches hold
MODULUS = 1 << 64
_MIX = 0x9E3779B97F4A7C15
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(part: Tensor, begin: int = 0) -> int:
    """The share of a part in the fingerprint of a whole tensor.

    Args:
        part: elements that follow each other in the flattened tensor, on the CPU.
        begin: the place of the first of them.

    Returns:
        A number below 2**64. Those of all parts add up, modulo 2**64, to that of the whole.
    """
    if part.dtype.is_complex:
        part, begin = torch.view_as_real(part), 2 * begin
    bits = part.detach().reshape(-1).view(_INTEGERS[part.dtype.itemsize])
    total, place = 0, 0
    while place < len(bits):
        block, offset = divmod(begin + place, BLOCK)
        values = bits[place : place + BLOCK - offset].long() * _signed(_MIX)  # a copy
        values.bitwise_xor_((values >> 32).bitwise_and_(0xFFFF_FFFF))
        values.mul_(_factors()[offset : offset + len(values)])
        total += _pseudo_random(block) * int(values.sum())
        place += len(values)
    return total % MODULUS


@functools.cache
def _factors() -> Tensor:
    """The odd numbers of the places in a block: (BLOCK,), int64."""
    return torch.tensor([_signed(_pseudo_random(-1 - place)) for place in range(BLOCK)])


def _pseudo_random(number: int) -> int:
    """An odd number below 2**64 for every number, as SplitMix64 makes them (Steele, 2014)."""
    x = (number + 1) * _MIX % MODULUS
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % MODULUS
    x = (x ^ x >> 27) * 0x94D049BB133111EB % MODULUS
    return (x ^ x >> 31) | 1


def _signed(number: int) -> int:
    """The int64 of the same bits."""
    return number - MODULUS if number >> 63 else number
