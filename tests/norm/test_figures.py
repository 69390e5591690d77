"""The promised precision: sums over many rows, rows far from zero, and extreme rows."""

import functools
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metronorm.norm import reference
from tests.norm.inputs import (
    BF16,
    FP16,
    FP32,
    FP64,
    KINDS,
    MIXES,
    SAVES,
    Kind,
    apply,
    apply_add,
    check,
    check_add,
    draw,
    draw_affine,
    draw_x,
    leaf,
    run,
    thread_counts,
)

MANY = 16_384


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


# Sums over many rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", [(BF16, BF16), (FP16, FP16), (BF16, FP32), (FP32, FP32)])
def test_sixteen_thousand_ones_are_sixteen_thousand(backend: str, dtypes: Any) -> None:
    x_dtype, dtype = dtypes
    x, weight, bias = draw_x((MANY, 8), x_dtype), *draw_affine((8,), dtype)
    for dy in (torch.ones(MANY, 8, dtype=x_dtype), torch.ones((), dtype=x_dtype).expand(MANY, 8)):
        got = run("layer_norm", x, weight, bias, dy=dy)
        assert torch.equal(got["dbias"], torch.full((8,), MANY, dtype=dtype))


@functools.cache
def many_rows(mix: str, kind: Kind) -> tuple[Tensor, ...]:
    """dy, x, weight, bias; dweight and dbias in float64."""
    dtypes = MIXES[mix]
    dy, x = draw((MANY, 256), dtypes.x, 7), draw((MANY, 256), dtypes.x)
    weight, bias = draw_affine((256,), dtypes.weight)
    assert weight is not None
    slopes = reference.backward(dy, x, weight, 1e-5, centred=kind == "layer_norm")
    return dy, x, weight, bias, slopes.weight, slopes.bias


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mix", [mix for mix in MIXES if mix != "fp64"])
def test_weight_gradients_of_many_rows_lose_one_rounding(
    backend: str, mix: str, kind: Kind
) -> None:
    dy, x, weight, bias, *wants = many_rows(mix, kind)
    bias = bias if kind == "layer_norm" else None
    for threads in thread_counts(backend):
        got = run(kind, x, weight, bias, dy=dy, threads=threads)
        for name, want in zip(("dweight", "dbias"), wants, strict=True):
            if name in got:
                assert got[name].dtype == MIXES[mix].weight
                rounding = relative(want.to(got[name].dtype), want)
                assert relative(got[name], want) <= rounding + 1e-6


# Rows far from zero -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("off", [1e1, 1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("shape", [(64, 768), (5, 1023), (3, 17)])
def test_far_from_zero(backend: str, shape: tuple[int, int], off: float, kind: Kind) -> None:
    x = (draw(shape, FP64) + off).float()
    dy, (weight, bias) = draw(shape, seed=7), draw_affine(shape[1:])
    centred = kind == "layer_norm"
    assert weight is not None
    assert bias is not None
    if not centred:
        bias = None
    zero = torch.zeros(shape[1:])
    want = reference.forward(x, weight, zero if bias is None else bias, 1e-5, centred=centred)
    slopes = reference.backward(dy, x, weight, 1e-5, centred=centred)
    results = [run(kind, x, weight, bias, dy=dy)]
    leaves = {"x": leaf(torch.zeros(shape)), "residual": leaf(x), "weight": leaf(weight)}
    y, _ = apply_add(kind, *leaves.values(), bias)
    y.backward(dy)
    grads = {f"d{name}": value.grad for name, value in leaves.items()}
    results.append({"y": y.detach()} | grads)
    for got in results:
        for name, exact in (("y", want), ("dx", slopes.x), ("dresidual", slopes.x)):
            if name in got:
                off_by = (got[name].double() - exact).norm(dim=1) / exact.norm(dim=1)
                assert off_by.max() <= 1e-5, name
        assert relative(got["dweight"], slopes.weight) <= 1e-5


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16, FP64])
@pytest.mark.parametrize("width", [1, 2, 17, 768, 1000])
def test_constant_rows_give_the_bias(backend: str, width: int, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1.0, -7e-3, 3.3, 4e4, -1e3], dtype=dtype)
    x = values.unsqueeze(1).expand(-1, width).contiguous()
    weight, bias = draw_affine((width,), dtype)
    for given, y in ((bias, bias), (None, torch.zeros(width, dtype=dtype))):
        got = run("layer_norm", x, weight, given, dy=draw(x.shape, dtype, 7))
        assert torch.equal(got["y"], y.expand_as(x))
        assert not got["dweight"].any()
        assert all(value.isfinite().all() for value in got.values())


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("width", [1, 2, 1000, 4097])
def test_constant_million(backend: str, width: int, save: Any) -> None:
    x = torch.full((5, width), 1e6)
    weight, bias = draw_affine((width,))
    got = run("layer_norm", x, weight, bias, dy=draw(x.shape, seed=7), save=save)
    assert torch.equal(got["y"], bias.expand_as(x))
    if save == "input":
        assert not got["dweight"].any()
    assert all(value.isfinite().all() for value in got.values())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_element(backend: str, kind: Kind) -> None:
    x, weight = torch.tensor([[1e6], [-3.0], [0.0], [1e-20], [2.0]]), torch.tensor([0.7])
    got = check(kind, x, weight)
    if kind == "layer_norm":
        assert not got["y"].any()
        assert not got["dweight"].any()


# Extreme numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
def test_denormal_rows(backend: str, dtype: torch.dtype, kind: Kind) -> None:
    x = draw_x((4, 65), FP64)
    x[1:3] *= torch.finfo(dtype).tiny / 64
    x = x.to(dtype)
    assert (x[1].abs().double() < torch.finfo(dtype).tiny).all()
    assert x[1].any()
    weight, _ = draw_affine((65,), dtype)
    got = check(kind, x, weight)
    assert dtype == BF16 or got["y"][1].any()
    residual = torch.zeros_like(x)
    check_add(kind, x, residual, weight)


@pytest.mark.parametrize("kind", KINDS)
def test_large_numbers(backend: str, kind: Kind) -> None:
    beyond = () if backend == "torch" else (1e20, 1e37)  # their squares overflow in float32
    for scale in (1e9, 1e15, 1e18, *beyond):
        weight, _ = draw_affine((65,))
        check(kind, draw((4, 65), scale=scale), weight)
    check(kind, draw((4, 65), FP16, scale=1e4), draw_affine((65,), FP16)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_with_nan_or_infinity_changes_no_other_row(
    backend: str, value: float, dtype: torch.dtype, save: Any, kind: Kind
) -> None:
    for width in (7, 64, 100):
        x, dy = draw_x((9, width), dtype), draw((9, width), dtype, 7)
        weight, _ = draw_affine((width,), dtype)
        residual = draw_x((9, width), dtype, 4)
        clean = run(kind, x, weight, dy=dy, save=save)
        clean_sum, _ = apply_add(kind, x, residual, weight, save=save)
        x[4, width // 2] = value
        got = run(kind, x, weight, dy=dy, save=save)
        summed = apply_add(kind, x, residual, weight, save=save)
        others = torch.arange(9) != 4
        assert torch.equal(got["y"][others], clean["y"][others])
        assert torch.equal(got["dx"][others], clean["dx"][others])
        assert torch.equal(summed[0][others], clean_sum[others])
        for spoiled in (got["y"], got["dx"], *summed):
            assert not spoiled[4].isfinite().all()
        assert not got["dweight"].isfinite().all()


# Extreme shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP64])
def test_no_rows(backend: str, dtype: torch.dtype, kind: Kind) -> None:
    weight, bias = draw_affine((5,), dtype, "both" if kind == "layer_norm" else "weight")
    for shape in ((0, 5), (2, 0, 5), (0, 3, 0, 5)):
        x = torch.empty(shape, dtype=dtype)
        for save in SAVES:
            got = check(kind, x, weight, bias, save=save)
            more = check_add(kind, x, x, weight, bias, save=save, dropout=0.5)
            for gradients in (got, more):
                assert torch.equal(gradients["dweight"], torch.zeros(5, dtype=dtype))
            assert bias is None or not got["dbias"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_million_elements(backend: str, kind: Kind) -> None:
    width = 1_000_000
    weight, bias = draw_affine((width,), FP32, "both" if kind == "layer_norm" else "weight")
    *_, most = counts = thread_counts(backend)
    for threads in counts:
        check(kind, draw_x((1, width)), weight, bias, threads=threads)
    check(kind, draw_x((3, width), BF16), weight, bias, threads=most)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
def test_rows_of_a_hundred_thousand_elements(backend: str, save: Any, kind: Kind) -> None:
    width = 100_001
    weight, bias = draw_affine((width,), FP32, "both" if kind == "layer_norm" else "weight")
    for rows, dtype in ((1, FP32), (1, BF16), (3, FP16)):
        for threads in thread_counts(backend):
            check(kind, draw_x((rows, width), dtype), weight, bias, save=save, threads=threads)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_hundred_thousand_elements_with_add_and_dropout(backend: str, kind: Kind) -> None:
    weight, _ = draw_affine((100_001,))
    for rows in (1, 3):
        x, residual = draw_x((rows, 100_001), BF16), draw_x((rows, 100_001), FP32, 4)
        for threads, dropout in itertools.product(thread_counts(backend), (0.0, 0.2)):
            check_add(kind, x, residual, weight, dropout=dropout, threads=threads)


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_and_threads(backend: str, kind: Kind) -> None:
    for shape in ((257, 520), (40_000, 3)):
        x, residual = draw_x(shape, BF16), draw_x(shape, BF16, 4)
        weight, _ = draw_affine(shape[1:], BF16)
        for threads in thread_counts(backend):
            for save in SAVES:
                check_add(kind, x, residual, weight, save=save, dropout=0.2, threads=threads)
            check(kind, x, weight, threads=threads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_four_dimensions(backend: str, dims: int, kind: Kind) -> None:
    for shape in ((2, 3, 4, 5), (1, 2, 1, 9), (3, 1, 33, 1)):
        weight, _ = draw_affine(shape[-dims:])
        check(kind, draw_x(shape), weight, dims=dims)
        check_add(kind, draw_x(shape), draw_x(shape, seed=4), weight, dims=dims, dropout=0.2)


def test_many_dimensions(backend: str) -> None:
    shape = (1, 2) * 6
    weight, bias = draw_affine(shape[-5:])
    check("layer_norm", draw_x(shape), weight, bias, dims=5)
    check("layer_norm", draw_x(shape).permute(*range(11, -1, -1)), dims=7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_has_deviation_1(backend: str, kind: Kind) -> None:
    y = apply(kind, draw((50, 300), scale=20.0)).double()
    assert (y.square().mean(1) - 1).abs().max() < 1e-4
