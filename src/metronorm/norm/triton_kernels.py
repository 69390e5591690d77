"""The Triton kernels for rows that fit into a tile; the equations are those of `composed.py`.

A kernel gets a tensor as a pointer and three strides. Element `column` of row (outer, inner) is at
outer * strides[0] + inner * strides[1] + column * strides[2]. A tile is (BLOCK_ROWS, BLOCK_COLUMNS)
elements. Its rows have the same `outer`, so rows that are neighbours in memory are loaded together.
An absent tensor is None; Triton compiles the code for it away.

All sums are computed in WIDE: float64 for float64 tensors, float32 for all others. `gpu.py`
launches the kernels. `triton_wide.py` has the kernels for wider rows, with the same arguments.
"""

from __future__ import annotations

import triton
import triton.language as tl

from metronorm.norm import triton_tiles as tiles


@triton.jit(do_not_specialize=["blocks", "threshold"])
def forward(
    x,
    x_strides,
    residual,
    residual_strides,
    weight,
    bias,
    y,
    y_strides,
    summed,
    summed_strides,
    stats,
    seed,
    threshold: tl.uint32,
    scale: tl.float64,
    eps: tl.float64,
    inner_size,
    blocks,
    CENTRED: tl.constexpr,
    WIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute y, (mean, r) and, with a residual, summed of one tile of whole rows."""
    source = (x, x_strides, residual, residual_strides, summed, seed, threshold, scale)
    outer, inner, row = tiles.rows_of(tl.program_id(0), blocks, inner_size, BLOCK_ROWS)
    column, mask = tiles.columns_of(0, inner, inner_size, COLUMNS, BLOCK_COLUMNS)
    d = tiles.load_source(source, outer, inner, row, 0, column, mask, WIDE, BLOCK_COLUMNS)
    if residual is not None:
        tl.store(summed + tiles.at(summed_strides, outer, inner, column), d, mask=mask)
    mean = tl.zeros((BLOCK_ROWS,), tl.float64)
    if CENTRED:  # twice: far from zero, the first mean is rounded too much
        first = tl.sum(d, 1) / COLUMNS
        d = tl.where(mask, d - first[:, None], 0.0)
        second = tl.sum(d, 1) / COLUMNS
        d = tl.where(mask, d - second[:, None], 0.0)
        mean = first.to(tl.float64) + second.to(tl.float64)
    r = tiles.inverse_root(tl.sum(d * d, 1) / COLUMNS, eps, WIDE)
    d = tiles.affine(d * r[:, None], weight, bias, column, COLUMNS, WIDE)
    tl.store(y + tiles.at(y_strides, outer, inner, column), d, mask=mask)
    tiles.store_stats(stats, row, inner < inner_size, mean, r)


@triton.jit(do_not_specialize=["blocks", "all_blocks", "threshold"])
def backward(
    dy,
    dy_strides,
    dsummed,
    dsummed_strides,
    saved,
    saved_strides,
    stats,
    weight,
    bias,
    dsum,
    dsum_strides,
    dx,
    dx_strides,
    dweight,
    dbias,
    seed,
    threshold: tl.uint32,
    scale: tl.float64,
    inner_size,
    blocks,
    all_blocks,
    CENTRED: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
    WIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute dsum and dx of some tiles of whole rows, and their sums for dweight and dbias.

    Program p of P takes the tiles p, p + P, p + 2 P, ...; its sums go to row p of dweight and
    dbias.
    """
    program = tl.program_id(0)
    to_weight = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
    to_bias = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
    for block in range(program, all_blocks, tl.num_programs(0)):
        outer, inner, row = tiles.rows_of(block, blocks, inner_size, BLOCK_ROWS)
        column, mask = tiles.columns_of(0, inner, inner_size, COLUMNS, BLOCK_COLUMNS)
        high, low, r = tiles.load_stats(stats, row, inner < inner_size, WIDE)
        slope = tiles.load(dy, dy_strides, outer, inner, column, mask, WIDE)
        h = tiles.load(saved, saved_strides, outer, inner, column, mask, WIDE)
        h = tiles.hat(
            h, high, low, r, weight, bias, column, mask, CENTRED, FROM_OUTPUT, COLUMNS, WIDE
        )
        if dweight is not None:
            to_weight += slope * h
        if dbias is not None:
            to_bias += slope
        slope = tiles.affine(slope, weight, None, column, COLUMNS, WIDE)
        along = tl.sum(slope * h, 1) / COLUMNS
        slope_mean = along * 0.0
        if CENTRED:
            slope_mean = tl.sum(slope, 1) / COLUMNS
        slope = (slope - slope_mean[:, None] - h * along[:, None]) * r
        if dsummed is not None:
            slope += tiles.load(dsummed, dsummed_strides, outer, inner, column, mask, WIDE)
        tl.store(dsum + tiles.at(dsum_strides, outer, inner, column), slope, mask=mask)
        if dx is not None:
            if seed is not None:
                slope *= tiles.keep_scale(seed, threshold, scale, row, 0, WIDE, BLOCK_COLUMNS)
            tl.store(dx + tiles.at(dx_strides, outer, inner, column), slope, mask=mask)
    column = tl.arange(0, BLOCK_COLUMNS)
    at = tl.cast(program, tl.int64) * COLUMNS + column
    if dweight is not None:
        tl.store(dweight + at, tl.sum(to_weight, 0), mask=column < COLUMNS)
    if dbias is not None:
        tl.store(dbias + at, tl.sum(to_bias, 0), mask=column < COLUMNS)
