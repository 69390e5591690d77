"""The equations compared with torch's derivatives of the plain formula, in float64."""

import pytest
import torch
from torch import Tensor

from metronorm.norm import reference
from tests.norm.inputs import FP32, FP64, draw, draw_affine, draw_x

EPS = 1e-3
SHAPES = [(1, 1), (4, 1), (1, 5), (6, 7)]


def naive(x: Tensor, weight: Tensor, bias: Tensor, centred: bool) -> Tensor:
    if centred:
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + EPS) * weight + bias
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight + bias


def leaves(shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dy, x, weight and bias in float64."""
    weight, bias = draw_affine(shape[1:], FP64)
    assert weight is not None
    assert bias is not None
    dy, x = draw(shape, FP64, 7), draw_x(shape, FP64)
    return tuple(value.requires_grad_() for value in (dy, x, weight, bias))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_first_derivatives(shape: tuple[int, int], centred: bool) -> None:
    dy, x, weight, bias = leaves(shape)
    want = naive(x, weight, bias, centred)
    with torch.no_grad():
        close(reference.forward(x, weight, bias, EPS, centred=centred), want)
        slopes = reference.backward(dy, x, weight, EPS, centred=centred)
    for got, slope in zip(slopes, torch.autograd.grad(want, (x, weight, bias), dy), strict=True):
        close(got, slope)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_second_derivatives(shape: tuple[int, int], centred: bool) -> None:
    dy, x, weight, bias = leaves(shape)
    y = naive(x, weight, bias, centred)
    first = torch.autograd.grad(y, (x, weight, bias), dy, create_graph=True)
    slopes = [draw(tuple(value.shape), FP64, 20 + at) for at, value in enumerate(first)]
    want = torch.autograd.grad(first, (dy, x, weight), slopes)
    with torch.no_grad():
        got = reference.double_backward(
            reference.Gradients(*slopes), dy, x, weight, EPS, centred=centred
        )
    for ours, theirs in zip(got, want, strict=True):
        close(ours, theirs)


def test_everything_is_computed_in_float64() -> None:
    x, weight, bias = draw_x((3, 5), FP32), *draw_affine((5,), FP32)
    assert weight is not None
    assert bias is not None
    wide = [value.double() for value in (x, weight, bias)]
    assert torch.equal(
        reference.forward(x, weight, bias, EPS), reference.forward(*wide, EPS, centred=True)
    )
    assert {part.dtype for part in reference.backward(x, x, weight, EPS)} == {FP64}
