"""The Triton kernels for rows that do not fit into a tile: they take a row tile by tile.

Tensors, tiles and arguments are those of `triton_kernels.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from metronorm.norm import triton_tiles as tiles


@triton.jit(do_not_specialize=["blocks", "threshold"])
def forward_wide(
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
    """`forward` for rows of any width: reads a row once for each sum and once to write y."""
    # Every sweep adds x and residual again: a thread may not yet see what others wrote to summed.
    source = (x, x_strides, residual, residual_strides, summed, seed, threshold, scale)
    outer, inner, row = tiles.rows_of(tl.program_id(0), blocks, inner_size, BLOCK_ROWS)
    first = tl.zeros((BLOCK_ROWS,), WIDE)
    second = tl.zeros((BLOCK_ROWS,), WIDE)
    if CENTRED:
        first = (
            tiles.row_sums(
                source,
                outer,
                inner,
                row,
                inner_size,
                first,
                second,
                False,
                WIDE,
                COLUMNS,
                BLOCK_ROWS,
                BLOCK_COLUMNS,
            )
            / COLUMNS
        )
        second = (
            tiles.row_sums(
                source,
                outer,
                inner,
                row,
                inner_size,
                first,
                second,
                False,
                WIDE,
                COLUMNS,
                BLOCK_ROWS,
                BLOCK_COLUMNS,
            )
            / COLUMNS
        )
    squares = tiles.row_sums(
        source,
        outer,
        inner,
        row,
        inner_size,
        first,
        second,
        True,
        WIDE,
        COLUMNS,
        BLOCK_ROWS,
        BLOCK_COLUMNS,
    )
    r = tiles.inverse_root(squares / COLUMNS, eps, WIDE)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        column, mask = tiles.columns_of(start, inner, inner_size, COLUMNS, BLOCK_COLUMNS)
        d = tiles.load_source(source, outer, inner, row, start, column, mask, WIDE, BLOCK_COLUMNS)
        if residual is not None:
            tl.store(summed + tiles.at(summed_strides, outer, inner, column), d, mask=mask)
        h = ((d - first[:, None]) - second[:, None]) * r[:, None]
        h = tiles.affine(h, weight, bias, column, COLUMNS, WIDE)
        tl.store(y + tiles.at(y_strides, outer, inner, column), h, mask=mask)
    tiles.store_stats(
        stats, row, inner < inner_size, first.to(tl.float64) + second.to(tl.float64), r
    )


@triton.jit(do_not_specialize=["blocks", "all_blocks", "threshold"])
def backward_wide(
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
    """Compute dsum and dx of rows of any width: reads a row once for the sums and once to write."""
    outer, inner, row = tiles.rows_of(tl.program_id(0), blocks, inner_size, BLOCK_ROWS)
    high, low, r = tiles.load_stats(stats, row, inner < inner_size, WIDE)
    slope_total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
    along_total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        column, mask = tiles.columns_of(start, inner, inner_size, COLUMNS, BLOCK_COLUMNS)
        slope = tiles.load(dy, dy_strides, outer, inner, column, mask, WIDE)
        slope = tiles.affine(slope, weight, None, column, COLUMNS, WIDE)
        h = tiles.load(saved, saved_strides, outer, inner, column, mask, WIDE)
        h = tiles.hat(
            h, high, low, r, weight, bias, column, mask, CENTRED, FROM_OUTPUT, COLUMNS, WIDE
        )
        slope_total += slope
        along_total += slope * h
    along = tl.sum(along_total, 1) / COLUMNS
    slope_mean = along * 0.0
    if CENTRED:
        slope_mean = tl.sum(slope_total, 1) / COLUMNS
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        column, mask = tiles.columns_of(start, inner, inner_size, COLUMNS, BLOCK_COLUMNS)
        slope = tiles.load(dy, dy_strides, outer, inner, column, mask, WIDE)
        slope = tiles.affine(slope, weight, None, column, COLUMNS, WIDE)
        h = tiles.load(saved, saved_strides, outer, inner, column, mask, WIDE)
        h = tiles.hat(
            h, high, low, r, weight, bias, column, mask, CENTRED, FROM_OUTPUT, COLUMNS, WIDE
        )
        slope = (slope - slope_mean[:, None] - h * along[:, None]) * r
        if dsummed is not None:
            slope += tiles.load(dsummed, dsummed_strides, outer, inner, column, mask, WIDE)
        tl.store(dsum + tiles.at(dsum_strides, outer, inner, column), slope, mask=mask)
        if dx is not None:
            if seed is not None:
                slope *= tiles.keep_scale(seed, threshold, scale, row, start, WIDE, BLOCK_COLUMNS)
            tl.store(dx + tiles.at(dx_strides, outer, inner, column), slope, mask=mask)


@triton.jit(do_not_specialize=["blocks", "all_blocks"])
def weight_gradients(
    dy,
    dy_strides,
    saved,
    saved_strides,
    stats,
    weight,
    bias,
    dweight,
    dbias,
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
    """Sum over rows for dweight and dbias: some columns, and every P-th block of rows.

    Program (c, p) of (C, P) takes the columns of tile c and the blocks p, p + P, p + 2 P, ...; its
    sums go to row p of dweight and dbias.
    """
    program = tl.program_id(1)
    start = tl.program_id(0) * BLOCK_COLUMNS
    to_weight = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
    to_bias = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
    for block in range(program, all_blocks, tl.num_programs(1)):
        outer, inner, row = tiles.rows_of(block, blocks, inner_size, BLOCK_ROWS)
        column, mask = tiles.columns_of(start, inner, inner_size, COLUMNS, BLOCK_COLUMNS)
        slope = tiles.load(dy, dy_strides, outer, inner, column, mask, WIDE)
        if dweight is not None:
            high, low, r = tiles.load_stats(stats, row, inner < inner_size, WIDE)
            h = tiles.load(saved, saved_strides, outer, inner, column, mask, WIDE)
            h = tiles.hat(
                h, high, low, r, weight, bias, column, mask, CENTRED, FROM_OUTPUT, COLUMNS, WIDE
            )
            to_weight += slope * h
        if dbias is not None:
            to_bias += slope
    column = start + tl.arange(0, BLOCK_COLUMNS)
    at = tl.cast(program, tl.int64) * COLUMNS + column
    if dweight is not None:
        tl.store(dweight + at, tl.sum(to_weight, 0), mask=column < COLUMNS)
    if dbias is not None:
        tl.store(dbias + at, tl.sum(to_bias, 0), mask=column < COLUMNS)
