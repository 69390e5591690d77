"""Inputs that are not contiguous: the equation holds, and the output has the input's layout."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.norm.inputs import (
    BF16,
    FP32,
    KINDS,
    SAVES,
    Kind,
    check,
    check_add,
    draw,
    draw_affine,
    draw_x,
    run,
    thread_counts,
)

Layout = Callable[[torch.dtype, int], Tensor]  # all of them are (6, 5, 37)


def contiguous(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((6, 5, 37), dtype, seed)


def some_columns(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((6, 5, 43), dtype, seed)[..., 3:40]


def every_second_column(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((6, 5, 74), dtype, seed)[..., ::2]


def every_second_row(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((12, 5, 37), dtype, seed)[::2]


def some_rows(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((6, 9, 37), dtype, seed)[:, 2:7]


def storage_offset(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((6 * 5 * 37 + 3,), dtype, seed)[3:].view(6, 5, 37)


def batch_transposed(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((5, 6, 37), dtype, seed).transpose(0, 1)


def channels_first(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((6, 37, 5), dtype, seed).permute(0, 2, 1)


def width_first(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((37, 5, 6), dtype, seed).permute(2, 1, 0)


def width_in_the_middle(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((5, 37, 6), dtype, seed).permute(2, 0, 1)


def batch_expanded(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((1, 5, 37), dtype, seed).expand(6, 5, 37)


def width_expanded(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((6, 5, 1), dtype, seed).expand(6, 5, 37)


def overlapping(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((80,), dtype, seed).as_strided((6, 5, 37), (3, 1, 1), 2)


def one_number(dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x((1,), dtype, seed).expand(6, 5, 37)


LAYOUTS = [
    contiguous,
    some_columns,
    every_second_column,
    every_second_row,
    some_rows,
    storage_offset,
    batch_transposed,
    channels_first,
    width_first,
    width_in_the_middle,
    batch_expanded,
    width_expanded,
    overlapping,
    one_number,
]
# Their rows lie side by side, as those of a contiguous tensor: one kernel, the same bits.
WHOLE_ROWS = [some_columns, every_second_row, some_rows, storage_offset, batch_transposed]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_input(backend: str, layout: Layout, dtype: torch.dtype, kind: Kind) -> None:
    weight, bias = draw_affine((37,), FP32, "both" if kind == "layer_norm" else "weight")
    for save in SAVES:
        check(kind, layout(dtype, 0), weight, bias, save=save)
        check(kind, layout(dtype, 0), weight, bias, save=save, dy=layout(dtype, 7))
        wide, _ = draw_affine((5, 37), FP32)
        check(kind, layout(dtype, 0), wide, dims=2, save=save)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient(backend: str, layout: Layout, kind: Kind) -> None:
    weight, bias = draw_affine((37,), FP32, "both" if kind == "layer_norm" else "weight")
    for x in (contiguous(FP32, 0), channels_first(FP32, 0), every_second_column(FP32, 0)):
        for save in SAVES:
            check(kind, x, weight, bias, save=save, dy=layout(FP32, 7))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_residual(backend: str, layout: Layout, kind: Kind) -> None:
    weight, _ = draw_affine((37,), FP32)
    plain, other = contiguous(BF16, 0), layout(FP32, 4)
    check_add(kind, plain, other, weight, dropout=0.2)
    check_add(kind, plain, other, weight, dnormed=layout(BF16, 7), dsummed=layout(FP32, 8))
    check_add(kind, layout(BF16, 0), contiguous(FP32, 4), weight, dropout=0.2)
    check_add(kind, layout(BF16, 0), layout(BF16, 4), weight, save="output")
    check_add(kind, layout(FP32, 0), other, weight, save="output")
    check_add(kind, channels_first(FP32, 0), other, weight, dsummed=layout(FP32, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("layout", WHOLE_ROWS)
def test_contiguous_rows_give_the_same_bits_as_a_copy(
    backend: str, layout: Layout, dtype: torch.dtype, kind: Kind
) -> None:
    x, dy = layout(dtype, 0), draw((6, 5, 37), dtype, 7)
    weight, _ = draw_affine((37,), FP32)
    got, copy = run(kind, x, weight, dy=dy), run(kind, x.contiguous(), weight, dy=dy)
    assert torch.equal(got["y"], copy["y"])
    assert torch.equal(got["dx"], copy["dx"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
def test_parameters(backend: str, save: str, kind: Kind) -> None:
    x = contiguous(FP32, 0)
    weight, bias = draw_affine((74,))
    for cut in (slice(None, None, 2), slice(5, 42)):
        check(kind, x, weight[cut], bias[cut] if kind == "layer_norm" else None, save=save)
    check(kind, x, torch.tensor([1.5]).expand(37), save=save)
    wide, _ = draw_affine((37, 5))
    check(kind, x, wide.T, dims=2, save=save)


def test_gradient_of_a_sum(backend: str) -> None:
    weight, bias = draw_affine((37,))
    for x in (contiguous(FP32, 0), channels_first(FP32, 0), batch_transposed(FP32, 0)):
        check("layer_norm", x, weight, bias, dy=torch.ones(()).expand(x.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_threads(backend: str, kind: Kind) -> None:
    weight, _ = draw_affine((37,))
    images, dimages = (draw_x((6, 37, 900), seed=seed).transpose(1, 2) for seed in (0, 7))
    rows, drows = (draw_x((5400, 74), seed=seed)[:, ::2] for seed in (0, 7))
    for threads in thread_counts(backend):
        check(kind, images, weight, dy=dimages, threads=threads)
        check(kind, rows, weight, dy=drows, threads=threads)
        check_add(kind, rows, drows, weight, dropout=0.2, threads=threads)


@pytest.mark.parametrize("channels", [1, 3, 64, 5000])
def test_channels_first_of_every_size(backend: str, channels: int) -> None:
    for pixels in (1, 15, 16, 17, 70):
        x = draw_x((2, channels, pixels)).transpose(1, 2)
        dy = draw((2, channels, pixels), seed=7).transpose(1, 2)
        weight, bias = draw_affine((channels,))
        check("layer_norm", x, weight, bias, dy=dy)
        if channels == 64:
            check("layer_norm", x.to(BF16), weight, bias, dy=dy.to(BF16), save="output")
            check("rms_norm", x, weight, dy=dy, save="output")
