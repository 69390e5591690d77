"""Pieces that are all of a tensor, stochastic rounding, and the look for what is not finite."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metronorm.optim.blocks import PIECE_ELEMENTS, add, all_finite, blocks
from tests.optim.replay import BF16, FP16, FP32, FP64

STEP = 2**-7  # between bfloat16 numbers from 1 to 2


@pytest.mark.parametrize(
    "numel", [0, 1, *(PIECE_ELEMENTS + more for more in (-1, 0, 1)), 2 * PIECE_ELEMENTS + 3]
)
def test_pieces_are_all_of_the_tensors(numel: int) -> None:
    first, second = torch.zeros(numel), torch.zeros(numel, dtype=BF16)
    sizes = []
    for one, other in blocks(first, second):
        assert one.shape == other.shape
        assert one.numel() <= PIECE_ELEMENTS
        one += 1
        other += 2
        sizes.append(one.numel())
    assert sum(sizes) == numel
    assert bool((first == 1).all())
    assert bool((second == 2).all())


def test_pieces_of_what_is_not_contiguous_are_the_whole() -> None:
    plain = torch.zeros(600, 600)
    assert plain.numel() > PIECE_ELEMENTS
    for pair in ((plain, plain.T), (plain.T, plain)):
        (pieces,) = blocks(*pair)
        assert all(piece is whole for piece, whole in zip(pieces, pair, strict=True))
    assert len(list(blocks(plain, plain))) == 3


@pytest.mark.parametrize("dtype", [FP64, FP32, FP16])
@pytest.mark.parametrize("stochastic", [False, True])
def test_rounding_is_random_for_bfloat16_only(dtype: torch.dtype, stochastic: bool) -> None:
    parameter, update = torch.ones(100, dtype=dtype), torch.full((100,), 0.3)
    add(parameter, update, 0.01, kept=0.5, stochastic=stochastic)
    want = torch.ones(100, dtype=dtype).mul_(0.5).add_(update, alpha=0.01)
    assert torch.equal(parameter, want)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_of_stochastic_rounding_is_exact(share: float, sign: int) -> None:
    """A share of a step is one step with that probability: to four standard errors."""
    torch.manual_seed(0)
    n = 200_000
    parameter = torch.full((n,), float(sign), dtype=BF16)
    add(parameter, torch.full((n,), share * STEP), float(sign), stochastic=True)
    moved = (sign * parameter.double() - 1) / STEP
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    for part in (moved, *(moved[first::4] for first in range(4))):  # four elements share a draw
        error = 4 * (share * (1 - share) / len(part)) ** 0.5
        assert float(part.mean()) == pytest.approx(share, abs=error)
    together = float((moved[0::4] * moved[1::4]).mean())
    assert together == pytest.approx(share**2, abs=4 / (n / 4) ** 0.5)


def test_small_updates_are_lost_unless_rounding_is_random() -> None:
    torch.manual_seed(0)
    lost, kept = torch.ones(1000, dtype=BF16), torch.ones(1000, dtype=BF16)
    update = torch.full((1000,), -STEP / 40)
    for _ in range(400):
        add(lost, update, 1.0)
        add(kept, update, 1.0, stochastic=True)
    assert torch.equal(lost, torch.ones_like(lost))
    assert float(kept.double().mean()) == pytest.approx(1 - 10 * STEP, rel=1e-3)


def test_small_decay_is_lost_unless_rounding_is_random() -> None:
    torch.manual_seed(0)
    lost, kept = torch.ones(1000, dtype=BF16), torch.ones(1000, dtype=BF16)
    for _ in range(1000):
        add(lost, torch.zeros(1000), 1.0, kept=0.9999)
        add(kept, torch.zeros(1000), 1.0, kept=0.9999, stochastic=True)
    assert torch.equal(lost, torch.ones_like(lost))
    assert float(kept.double().mean()) == pytest.approx(0.9999**1000, rel=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4)])
def test_rounding_at_random_takes_any_shape(shape: tuple[int, ...]) -> None:
    parameter = torch.ones(shape, dtype=BF16)
    add(parameter, torch.full(shape, STEP / 2), 1.0, stochastic=True)
    assert ((parameter == 1) | (parameter == 1 + STEP)).all()


def test_what_bfloat16_holds_is_never_rounded() -> None:
    values = torch.tensor([0.0, 1.0, -1.5, 3e38, -3e38, 1e-38, torch.inf, -torch.inf]).bfloat16()
    for _ in range(20):
        parameter = values.clone()
        add(parameter, torch.zeros(8), 1.0, stochastic=True)
        assert torch.equal(parameter, values)
    parameter = torch.tensor([1.0, torch.nan], dtype=BF16)
    add(parameter, torch.tensor([torch.nan, 1.0]), 1.0, stochastic=True)
    assert bool(parameter.isnan().all())


def test_random_rounding_is_torchs_to_seed() -> None:
    def rounded(seed: int) -> Tensor:
        torch.manual_seed(seed)
        parameter = torch.ones(1000, dtype=BF16)
        add(parameter, torch.full((1000,), STEP / 2), 1.0, stochastic=True)
        return parameter

    assert torch.equal(rounded(1), rounded(1))
    assert not torch.equal(rounded(1), rounded(2))


@pytest.mark.parametrize("dtype", [FP32, FP64, torch.complex64])
@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_is_found(dtype: torch.dtype, wrong: float) -> None:
    tensors = [torch.ones(3, dtype=dtype), torch.ones((), dtype=dtype), torch.ones(0, dtype=dtype)]
    assert all_finite(tensors)
    tensors[0][1] = wrong
    assert not all_finite(tensors)


@pytest.mark.parametrize("value", [1e30, 1e200])
def test_squares_that_overflow_are_no_finding(value: Any) -> None:
    assert all_finite([torch.full((3,), value, dtype=FP64), torch.ones(3)])
    assert all_finite([torch.full((3, 3), 1e30)])
    assert not all_finite([torch.full((3, 3), 1e30), torch.tensor(torch.nan)])


def test_nothing_is_finite() -> None:
    assert all_finite([])
