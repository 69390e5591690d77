import itertools
import random

import pytest
import torch
from torch import Tensor

from metronorm.checkpoints.fingerprint import (
    _MIX,
    BLOCK,
    MODULUS,
    _pseudo_random,
    fingerprint,
)

DTYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


def equation(tensor: Tensor) -> int:
    """As the docstring of the module has it, in Python's integers."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    total = 0
    for i, bits in enumerate(real.reshape(-1).view(integers[real.dtype.itemsize]).tolist()):
        block, place = divmod(i, BLOCK)
        x = bits * _MIX % MODULUS
        total += _pseudo_random(block) * _pseudo_random(-1 - place) * (x ^ (x >> 32))
    return total % MODULUS


def random_tensor(dtype: torch.dtype, *shape: int) -> Tensor:
    torch.manual_seed(0)
    return (100 * torch.randn(shape, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_equation(dtype: torch.dtype) -> None:
    tensor = random_tensor(dtype, 7, 5)
    before = tensor.clone()
    assert fingerprint(tensor) == equation(tensor)
    assert torch.equal(tensor, before)
    assert fingerprint(tensor) == fingerprint(tensor.T.contiguous().T)


def test_more_than_a_block() -> None:
    tensor = random_tensor(torch.float32, BLOCK + 300)
    assert fingerprint(tensor) == equation(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_parts_add_up_in_any_order(dtype: torch.dtype) -> None:
    tensor = random_tensor(dtype, 3 * BLOCK + 77)
    rng = random.Random(0)
    for parts in (1, 2, 5, 20):
        cuts = [0, *sorted(rng.choices(range(len(tensor)), k=parts)), len(tensor)]
        shares = [fingerprint(tensor[begin:end], begin) for begin, end in itertools.pairwise(cuts)]
        rng.shuffle(shares)
        assert sum(shares) % MODULUS == fingerprint(tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_has_changed_its_place_or_sign_is_found(dtype: torch.dtype) -> None:
    tensor = random_tensor(dtype, 8, BLOCK // 4)  # two blocks
    rng, right = random.Random(0), fingerprint(tensor)
    for _ in range(30):
        a, b = rng.sample(range(8), 2)
        swapped = tensor.clone()
        swapped[[a, b]] = tensor[[b, a]]
        assert fingerprint(swapped) != right
        stale = tensor.clone()
        stale[a] = tensor[b]
        assert fingerprint(stale) != right
        signs = tensor.clone()  # the upper bit only, in two elements
        signs[a, b] *= -1
        signs[b, a] *= -1
        assert fingerprint(signs) != right
    assert fingerprint(tensor[:4], 0) != fingerprint(tensor[:4], BLOCK)


def test_nothing_adds_nothing() -> None:
    assert fingerprint(torch.empty(0, 3), 12) == 0
