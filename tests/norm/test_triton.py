"""The GPU kernels compared with the equations, in Triton's interpreter, without a GPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from metronorm.norm import composed, gpu
from metronorm.norm.dropout import keep_scale
from tests.norm.inputs import (
    ADD_MIXES,
    AFFINE,
    BF16,
    FP32,
    FP64,
    KINDS,
    MIXES,
    SAVES,
    Kind,
    check,
    check_add,
    draw,
    draw_affine,
    draw_x,
)
from tests.norm.interpreter import interpreted

# (width, rows). Up to 8192 columns a tile holds whole rows and the sums for the weights; up to
# 16384, whole rows without these sums; beyond, parts of rows. For float64 half of these limits.
SHAPES = ((1, 2000), (7, 0), (7, 5), (128, 40), (768, 7))
ALL = [(mix, shape) for mix in ADD_MIXES for shape in SHAPES]
ALL += [("fp32", (4097, 4)), ("fp32", (9000, 4)), ("fp32", (20001, 2)), ("fp64", (9000, 2))]
ALL += [("bf16, weights fp32", (9000, 2)), ("bf16, weights fp32", (20001, 2))]
LAYOUTS = ("channels_first", "few_pixels", "heads", "transposed", "sliced", "expanded", "odd")


@pytest.fixture(autouse=True)
def _interpreted() -> Iterator[None]:
    with interpreted():
        yield


def affine_of(
    kind: Kind, shape: tuple[int, ...], dtype: torch.dtype, which: str = "both"
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    weight, bias = draw_affine(shape, dtype, which)
    return weight, bias if kind == "layer_norm" else None


def lay_out(layout: str, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, int]:
    """A tensor that is not contiguous, and the number of its dimensions to normalize."""
    if layout == "channels_first":
        return draw_x((2, 40, 6, 8), dtype, seed).permute(0, 2, 3, 1), 1
    if layout == "few_pixels":  # with too many channels for one tile
        return draw_x((2, 2100, 1, 2), dtype, seed).permute(0, 2, 3, 1), 1
    if layout == "heads":
        return draw_x((2, 3, 3 * 4 * 8), dtype, seed)[..., 32:64].view(2, 3, 4, 8), 1
    if layout == "transposed":
        return draw_x((9, 5), dtype, seed).t(), 1
    if layout == "sliced":
        return draw_x((4, 6, 30), dtype, seed)[:, :, 3:20], 1
    if layout == "expanded":
        return draw_x((1, 24), dtype, seed).expand(5, 24), 1
    return draw_x((3, 2, 4, 5, 6), dtype, seed).permute(4, 2, 0, 3, 1), 2


@pytest.mark.parametrize(("mix", "shape"), [(mix, shape) for mix, shape in ALL if mix in MIXES])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equation(kind: Kind, mix: str, shape: tuple[int, int]) -> None:
    (width, rows), dtypes = shape, MIXES[mix]
    weight, bias = affine_of(kind, (width,), dtypes.weight)
    for save in SAVES:
        check(kind, draw_x((rows, width), dtypes.x), weight, bias, save=save)


@pytest.mark.parametrize("which", AFFINE)
@pytest.mark.parametrize("kind", KINDS)
def test_options(kind: Kind, which: str) -> None:
    for dtype in (FP32, BF16, FP64):
        for dims, shape in ((1, (3, 100)), (2, (4, 3, 5)), (2, (6, 7))):
            weight, bias = affine_of(kind, shape[-dims:], dtype, which)
            for save, eps in zip(SAVES, (1e-12, 0.5), strict=True):
                check(kind, draw_x(shape, dtype), weight, bias, dims=dims, eps=eps, save=save)


@pytest.mark.parametrize(("mix", "shape"), ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_add_and_dropout(kind: Kind, mix: str, shape: tuple[int, int]) -> None:
    (width, rows), dtypes = shape, ADD_MIXES[mix]
    weight, bias = affine_of(kind, (width,), dtypes.weight)
    x, residual = draw_x((rows, width), dtypes.x), draw_x((rows, width), dtypes.residual, 3)
    for save, dropout in zip(SAVES, (0.3, 0.0), strict=True):
        check_add(kind, x, residual, weight, bias, save=save, dropout=dropout)


@pytest.mark.parametrize("dropout", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**62 - 1])
def test_drops_the_same_elements_as_every_backend(seed: int, dropout: float) -> None:
    for shape in ((3, 1), (5, 7), (600, 4), (2, 20001)):
        x, zeros, drawn = torch.ones(shape), torch.zeros(shape), torch.tensor(seed)
        args = (None, None, 1, 1e-5, True, False, dropout, drawn)
        _, summed, _ = gpu.add_norm(x, zeros, *args)
        kept = keep_scale(x.shape, 1, dropout, drawn, FP32)
        assert torch.equal(summed != 0, kept != 0)
        torch.testing.assert_close(summed, kept, rtol=3e-7, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_layouts(kind: Kind, layout: str) -> None:
    for dtype in (FP32,) if layout == "few_pixels" else (FP32, BF16, FP64):
        x, dims = lay_out(layout, dtype)
        other, _ = lay_out(layout, dtype, 3)
        weight, bias = affine_of(kind, x.shape[-dims:], dtype)
        for save in SAVES:
            check(kind, x, weight, bias, dims=dims, save=save)  # dy is contiguous
            check(kind, x, weight, bias, dims=dims, save=save, dy=other)
        check_add(kind, x, other, weight, bias, dims=dims, dropout=0.3)
        check_add(kind, x, other.contiguous(), weight, bias, dims=dims, dropout=0.3)


def test_gradient_of_a_sum() -> None:
    x = draw_x((6, 40))
    check("layer_norm", x, *draw_affine((40,)), dy=torch.ones(()).expand(6, 40))


@pytest.mark.parametrize("width", [768, 9000, 20001])
def test_rows_far_from_zero(width: int) -> None:
    """Mean 1e5 deviations away: y and the gradients to 1e-5."""
    weight, bias = draw_affine((width,))
    x, residual = draw((4, width), FP64), torch.zeros(4, width)
    x = (x + 1e5).float()
    check("layer_norm", x, weight, bias)
    check_add("layer_norm", residual, x, weight, bias)
    _, stats = gpu.norm(x, weight, bias, 1, 1e-5, True, False)
    exact = x.double()
    torch.testing.assert_close(stats[:, 0], exact.mean(1), rtol=1e-12, atol=0)
    r = (exact.var(1, correction=0) + 1e-5).rsqrt()
    torch.testing.assert_close(stats[:, 1], r, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [5, 768, 9000, 20001])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_with_nan_or_infinity_changes_no_other_row(width: int, value: float) -> None:
    weight, bias = draw_affine((width,))
    for centred in (True, False):
        for save_output in (False, True) if width < 9000 else (False,):
            args = (weight, bias, 1, 1e-5, centred, save_output)
            x, dy = draw_x((3, width)), draw((3, width))
            good = backward(x, dy, args)
            x[1, 3] = value
            bad = backward(x, dy, args)
            others = torch.arange(3) != 1
            for before, after in zip(good, bad, strict=True):
                assert torch.equal(before[others], after[others])
                assert after[1].isnan().any()


def backward(x: torch.Tensor, dy: torch.Tensor, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """(y, dx)."""
    y, stats = gpu.norm(x, *args)
    saved = y if args[-1] else x
    found = gpu.norm_backward(dy, None, saved, stats, *args, FP32, 0.0, None, True, True)
    return [y, found[0]]


@pytest.mark.parametrize("value", [0.0, 3.0, 1e9, -3e38])
def test_constant_rows(value: float) -> None:
    for width in (7, 768, 20001):
        x = torch.full((2, width), value)
        if abs(value) * width < 3e38:
            y, stats = gpu.norm(x, None, None, 1, 1e-5, True, False)
            assert not y.any()
            torch.testing.assert_close(stats[:, 0], x[:, 0].double(), rtol=1e-6, atol=0)


def test_gradients_that_are_not_needed_are_empty() -> None:
    width = 12
    weight, bias = draw_affine((width,))
    x, dy = draw_x((3, width), BF16), draw((3, width), BF16)
    _, stats = gpu.norm(x, weight, bias, 1, 1e-5, True, False)
    for dtype in (BF16, FP32):
        for need_weight, need_bias in ((False, False), (True, False), (False, True)):
            args = (dy, None, x.to(dtype), stats, weight, bias, 1, 1e-5, True, False, dtype)
            args = (*args, 0.0, None, need_weight, need_bias)
            for got, want in zip(
                gpu.norm_backward(*args), composed.norm_backward(*args), strict=True
            ):
                assert (got.shape, got.dtype) == (want.shape, want.dtype)
                torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)


def test_without_rows_the_weight_gradients_are_zero() -> None:
    weight, bias = draw_affine((7,))
    for shape in ((0, 7), (2, 0, 7)):
        got = check("layer_norm", draw_x(shape), weight, bias)
        assert not got["dweight"].any()
        assert not got["dbias"].any()


@pytest.mark.parametrize(("width", "rows"), [(100, 500), (9000, 20), (20001, 2)])
def test_runs_agree_to_the_bit(width: int, rows: int) -> None:
    weight, bias = draw_affine((width,))
    runs = [check("layer_norm", draw_x((rows, width)), weight, bias) for _ in range(2)]
    assert all(map(torch.equal, runs[0].values(), runs[1].values()))


@pytest.mark.slow
def test_very_many_columns() -> None:
    weight, bias = draw_affine((200_000,))
    check("layer_norm", draw_x((1, 200_000)), weight, bias)


def test_strange_weights() -> None:
    weight, bias = draw_affine((20,))
    assert weight is not None
    check("layer_norm", draw_x((3, 10)), weight[::2], bias[::2])
