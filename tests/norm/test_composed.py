"""The composed formulas compared with the equations, and the results that kernels rely on."""

import pytest
import torch

from metronorm.norm import composed, reference
from metronorm.norm._arguments import DropoutArguments, NormArguments
from tests.norm.inputs import FP32, FP64, draw, draw_affine, draw_x

EPS = 1e-3
NO_DROPOUT = DropoutArguments(0.0, None)


@pytest.mark.parametrize("save_output", [False, True])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", [(4, 1), (1, 5), (6, 7)])
def test_double_backward_is_the_equation(
    shape: tuple[int, int], centred: bool, save_output: bool
) -> None:
    x, dy = draw_x(shape, FP64).requires_grad_(), draw(shape, FP64, 7)
    weight, bias = draw_affine(shape[1:], FP64)
    args = NormArguments(weight, bias, 1, EPS, centred, save_output)
    y, stats = composed.norm(x, *args)
    slopes = reference.Gradients(
        draw(shape, FP64, 20), draw(shape[1:], FP64, 21), draw(shape[1:], FP64, 22)
    )
    got = composed.double_backward(
        (slopes.x, None, slopes.weight, slopes.bias),
        *(dy, y if save_output else x, stats, args, NO_DROPOUT),
    )
    want = reference.double_backward(slopes, dy, x, weight, EPS, centred=centred)
    to_x = got["saved"]
    if save_output:  # gradients of y and stats go on to x; those of weight and bias cancel
        to_x, *rest = torch.autograd.grad((y, stats), x, (got["saved"], got["stats"]))
        assert not rest
    torch.testing.assert_close(got["dy"], want.dy)
    torch.testing.assert_close(to_x, want.x)
    torch.testing.assert_close(got["dsummed"], slopes.x)
    if not save_output:
        torch.testing.assert_close(got["weight"], want.weight)


def test_without_gradients_of_outputs_the_double_backward_is_zero() -> None:
    x = draw_x((2, 3), FP64)
    args = NormArguments(None, None, 1, EPS, True, False)
    _, stats = composed.norm(x, *args)
    got = composed.double_backward((None, None, None, None), x, x, stats, args, NO_DROPOUT)
    assert not got["dy"].any()
    assert not got["saved"].any()


@pytest.mark.parametrize("centred", [True, False])
def test_statistics_are_mean_and_r_of_every_row(centred: bool) -> None:
    x = draw_x((3, 2, 5, 4), FP32)
    _, stats = composed.norm(x, None, None, 2, EPS, centred, False)
    d = x.double().flatten(2)
    mean = d.mean(-1) if centred else torch.zeros(3, 2, dtype=FP64)
    r = ((d - mean.unsqueeze(-1)).square().mean(-1) + EPS).rsqrt()
    torch.testing.assert_close(stats, torch.stack((mean, r), -1), rtol=1e-6, atol=1e-6)
    assert stats.dtype == composed.stats_dtype(x.device) == FP64


def test_gradients_that_are_not_needed_are_empty() -> None:
    x, (weight, bias) = draw_x((2, 3)), draw_affine((3,))
    args = weight, bias, 1, EPS, True, False
    _, stats = composed.norm(x, *args)
    _, dx, dweight, dbias = composed.norm_backward(
        x, None, x, stats, *args, FP32, 0.0, None, False, False
    )
    assert dx.numel() == dweight.numel() == dbias.numel() == 0
