"""The three operators on GPUs: these functions launch the Triton kernels.

Arguments and results are those of `composed.py`. `operators.py` calls these functions for tensors
on CUDA devices; torch counts ROCm's devices among them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import triton.language as tl

from metronorm.norm import triton_kernels, triton_wide
from metronorm.norm.composed import Backward, has_own_dx, wide_dtype
from metronorm.norm.dropout import threshold
from metronorm.norm.gpu_tiles import (
    Rows,
    Tile,
    backward_tile,
    describe,
    forward_tile,
    num_programs,
    weight_tile,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
) -> tuple[Tensor, Tensor]:
    """The normalized x, of x's dtype and layout, and (mean, r) of every row, (..., 2), float64."""
    y, _, stats = _forward(x, None, weight, bias, dims, eps, centred, 0.0, None)
    return y, stats


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(normed, summed, stats) of summed = residual + dropout(x); normed has x's dtype."""
    normed, summed, stats = _forward(x, residual, weight, bias, dims, eps, centred, dropout, seed)
    assert summed is not None
    return normed, summed, stats


def _forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    y = torch.empty_like(x)
    summed = None if residual is None else torch.empty_like(residual)
    stats = x.new_empty((*x.shape[:-dims], 2), dtype=torch.float64)
    if stats.numel() == 0:
        return y, summed, stats
    tensors, rows = _rows((x, residual), (y, summed), dims)
    at_x, at_residual, at_y, at_summed = zip(tensors, rows.strides, strict=True)
    tile = forward_tile(rows, x.dtype)
    blocks = _blocks(rows, tile)
    whole = tile.columns >= rows.columns
    with _device(x):
        (triton_kernels.forward if whole else triton_wide.forward_wide)[(rows.outer * blocks,)](
            *(*at_x, *at_residual, _packed(weight), _packed(bias), *at_y, *at_summed, stats),
            *(seed, threshold(dropout), 1 / (1 - dropout), eps, rows.inner, blocks, centred),
            **_constants(rows, tile, x.dtype),
        )
    _copy_back((y, summed), tensors[2:])
    return y, summed, stats


def norm_backward(
    dy: Tensor,
    dsummed: Tensor | None,
    saved: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
    dtype: torch.dtype,
    dropout: float,
    seed: Tensor | None,
    need_weight: bool,
    need_bias: bool,
) -> Backward:
    """Gradients of the normalized sum, of x before its dropout, of weight and of bias.

    Arguments and results are those of `composed.norm_backward`. The gradients of weight and bias
    are float32 sums (float64 for float64). Shapes and device determine the order of the sums, so
    two runs give the same bits.
    """
    dsum = torch.empty_like(saved, dtype=dtype)
    own = has_own_dx(dy.dtype, dtype, seed)
    dx = torch.empty_like(saved, dtype=dy.dtype) if own else None
    wanted = weight if need_weight else None, bias if need_bias else None
    if stats.numel() == 0:
        dweight, dbias = (
            dy.new_empty(0) if like is None else like.new_zeros(like.shape) for like in wanted
        )
        return dsum, dy.new_empty(0) if dx is None else dx, dweight, dbias
    tensors, rows = _rows((dy, dsummed, saved), (dsum, dx), dims)
    at_dy, at_dsummed, at_saved, at_dsum, at_dx = zip(tensors, rows.strides, strict=True)
    affine = stats.contiguous(), _packed(weight), _packed(bias)
    options = {"CENTRED": centred, "FROM_OUTPUT": save_output}

    tile, fused = backward_tile(rows, dtype, summing=any(like is not None for like in wanted))
    blocks = _blocks(rows, tile)
    whole = tile.columns >= rows.columns
    programs = all_blocks = rows.outer * blocks
    if whole:
        programs = min(programs, num_programs(dy.device, tile.num_warps))
    partial = _partial(wanted if fused else (None, None), programs, rows, dtype)
    with _device(dy):
        (triton_kernels.backward if whole else triton_wide.backward_wide)[(programs,)](
            *(*at_dy, *at_dsummed, *at_saved, *affine, *at_dsum, *at_dx, *partial),
            *(seed, threshold(dropout), 1 / (1 - dropout), rows.inner, blocks, all_blocks),
            **options,
            **_constants(rows, tile, dtype),
        )
        if not fused:
            tile = weight_tile(rows)
            blocks = _blocks(rows, tile)
            across = -(-rows.columns // tile.columns)
            programs = max(1, num_programs(dy.device, tile.num_warps) // across)
            programs = min(programs, rows.outer * blocks)
            partial = _partial(wanted, programs, rows, dtype)
            triton_wide.weight_gradients[(across, programs)](
                *(*at_dy, *at_saved, *affine, *partial),
                *(rows.inner, blocks, rows.outer * blocks),
                **options,
                **_constants(rows, tile, dtype),
            )
    _copy_back((dsum, dx), tensors[3:])
    dweight, dbias = (
        dy.new_empty(0) if like is None or part is None else _total(part, like)
        for like, part in zip(wanted, partial, strict=True)
    )
    return dsum, dy.new_empty(0) if dx is None else dx, dweight, dbias


def _rows(
    inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None], dims: int
) -> tuple[list[Tensor | None], Rows]:
    """The tensors to launch with, and where their elements lie.

    If three strides cannot describe the tensors, they are contiguous copies of the inputs and new,
    contiguous outputs, which `_copy_back` copies to the real outputs.
    """
    tensors = [*inputs, *outputs]
    rows = describe(tensors, dims)
    if rows is None:
        tensors = [None if tensor is None else tensor.contiguous() for tensor in inputs]
        tensors += [
            None
            if output is None
            else torch.empty(output.shape, dtype=output.dtype, device=output.device)
            for output in outputs
        ]
        rows = describe(tensors, dims)
        assert rows is not None
    return tensors, rows


def _copy_back(outputs: Sequence[Tensor | None], written: Sequence[Tensor | None]) -> None:
    for output, tensor in zip(outputs, written, strict=True):
        if output is not None and tensor is not None and output is not tensor:
            output.copy_(tensor)


def _partial(
    wanted: Sequence[Tensor | None], programs: int, rows: Rows, dtype: torch.dtype
) -> list[Tensor | None]:
    """For each wanted gradient, (programs, columns): every program writes its sums to a row."""
    shape = programs, rows.columns
    return [
        None if like is None else torch.empty(shape, dtype=wide_dtype(dtype), device=like.device)
        for like in wanted
    ]


def _total(partial: Tensor, like: Tensor) -> Tensor:
    return partial.sum(0).to(like.dtype).reshape(like.shape)


def _packed(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _blocks(rows: Rows, tile: Tile) -> int:
    """The number of tiles for the rows of one `outer`."""
    return -(-rows.inner // tile.rows)


def _constants(rows: Rows, tile: Tile, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "WIDE": tl.float64 if wide_dtype(dtype) == torch.float64 else tl.float32,
        "COLUMNS": rows.columns,
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "num_warps": tile.num_warps,
        "enable_fp_fusion": True,
    }


def _device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the tensor's device current: Triton launches on the current device."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else contextlib.nullcontext()
