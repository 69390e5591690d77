"""Norms over very many numbers: wide rows, and several axes that are as wide together."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from metronorm.norm import layer_norm, rms_norm
from tests.norm.inputs import (
    ADD_MIXES,
    FP32,
    KINDS,
    MIXES,
    Kind,
    check,
    check_add,
    draw,
    draw_affine,
)
from tests.norm.inputs import draw_x as draw_rows

WIDE = 262_144
SHAPES = {1: (2, WIDE), 2: (2, 512, 512), 3: (2, 64, 64, 64), 4: (2, 16, 16, 32, 32)}


def affine(kind: Kind, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return draw_affine(shape, dtype, "both" if kind == "layer_norm" else "weight")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mix", ["fp32", "bf16", "fp16, weights fp32"])
@pytest.mark.parametrize("axes", [1, 3])
def test_many_numbers_equal_the_equation(backend: str, axes: int, mix: str, kind: Kind) -> None:
    shape, dtypes = SHAPES[axes], MIXES[mix]
    weight, bias = affine(kind, shape[-axes:], dtypes.weight)
    check(kind, draw_rows(shape, dtypes.x), weight, bias, dims=axes, threads=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mix", ["fp32", "bf16, residual fp32"])
def test_add_and_norm_of_many_numbers(backend: str, mix: str, kind: Kind) -> None:
    shape, dtypes = SHAPES[2], ADD_MIXES[mix]
    x, residual = draw_rows(shape, dtypes.x), draw_rows(shape, dtypes.residual, 4)
    weight, bias = affine(kind, shape[-2:], dtypes.weight)
    check_add(kind, x, residual, weight, bias, dims=2)


def test_several_axes_are_one_wide_row(backend: str) -> None:
    """Bit for bit, forward and backward, however the numbers are divided into axes."""
    x, slope = draw_rows((2, WIDE)), draw((2, WIDE), seed=7)
    weight, bias = draw_affine((WIDE,))
    found = []
    for shape in SHAPES.values():
        leaves = [
            each.detach().reshape(new).requires_grad_()
            for each, new in ((x, shape), (weight, shape[1:]), (bias, shape[1:]))
        ]
        y = layer_norm(leaves[0], shape[1:], *leaves[1:])
        y.backward(slope.reshape(shape))
        found.append([each.reshape(-1) for each in (y, *(leaf.grad for leaf in leaves))])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_a_far_mean_costs_no_digits(backend: str) -> None:
    """Deviation 1 around a mean of 1,000: sums of squares alone would lose all of it."""
    x = draw((2, WIDE)) + 1000
    want = F.layer_norm(x.double(), (WIDE,))
    assert (layer_norm(x, WIDE).double() - want).abs().max() < 2e-3
    assert (
        layer_norm(x - 1000, WIDE) - F.layer_norm((x - 1000).double(), (WIDE,))
    ).abs().max() < 2e-6


def test_the_mean_of_squares_of_many_numbers_is_exact(backend: str) -> None:
    """A sum in float32, one number after the other, would stop growing."""
    x = torch.ones(1, WIDE * 80, dtype=FP32)
    assert (rms_norm(x, WIDE * 80, eps=1e-12) - 1).abs().max() < 1e-6
