"""What the Triton kernels share: addresses of a tile, loads, and parts of the equations."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of(block, blocks, inner_size, BLOCK_ROWS: tl.constexpr):
    """(outer, inner, row) of the rows of a tile, int64: a scalar and two of (BLOCK_ROWS,).

    `blocks` is the number of tiles for the rows of one `outer`; `row` counts all rows in order.
    """
    outer = tl.cast(block // blocks, tl.int64)
    inner = tl.cast(block % blocks, tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    return outer, inner, outer * inner_size + inner


@triton.jit
def columns_of(start, inner, inner_size, COLUMNS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """(column, mask) of a tile from column `start` on: (BLOCK_COLUMNS,) and the tile's shape."""
    column = start + tl.arange(0, BLOCK_COLUMNS).to(tl.int64)
    return column, (inner < inner_size)[:, None] & (column < COLUMNS)[None, :]


@triton.jit
def at(strides, outer, inner, column):
    """The offsets of the elements of a tile, int64."""
    return outer * strides[0] + inner[:, None] * strides[1] + column[None, :] * strides[2]


@triton.jit
def load(tensor, strides, outer, inner, column, mask, WIDE: tl.constexpr):
    """A tile in WIDE; 0 outside the tensor."""
    return tl.load(tensor + at(strides, outer, inner, column), mask=mask, other=0.0).to(WIDE)


@triton.jit
def load_source(
    source,
    outer,
    inner,
    row,
    start,
    column,
    mask,
    WIDE: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """A tile of the input of the norm: x, or residual + dropout(x), rounded as it is stored."""
    x, x_strides, residual, residual_strides, summed, seed, threshold, scale = source
    d = load(x, x_strides, outer, inner, column, mask, WIDE)
    if residual is not None:
        if seed is not None:
            d = d * keep_scale(seed, threshold, scale, row, start, WIDE, BLOCK_COLUMNS)
        d = d + load(residual, residual_strides, outer, inner, column, mask, WIDE)
        d = d.to(summed.dtype.element_ty).to(WIDE)
    return d


@triton.jit
def keep_scale(seed, threshold, scale, row, start, WIDE: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """`dropout.keep_scale` for a tile; one counter draws the numbers of four columns."""
    group = (start // 4 + tl.arange(0, BLOCK_COLUMNS // 4)).to(tl.uint32)[None, :]
    low = row.to(tl.uint32)[:, None]
    high = (row >> 32).to(tl.uint32)[:, None]
    first, second, third, fourth = tl.philox(tl.load(seed), group, low, high, high * 0)
    numbers = tl.join(tl.join(first, third), tl.join(second, fourth))
    numbers = tl.reshape(numbers, (row.shape[0], BLOCK_COLUMNS))
    kept = tl.full((1, 1), scale, WIDE)
    return tl.where(numbers >= tl.cast(threshold, tl.uint32), kept, 0.0)


@triton.jit
def inverse_root(square, eps, WIDE: tl.constexpr):
    """1 / sqrt(square + eps), rounded correctly."""
    square = square + tl.full((1,), eps, WIDE)
    if square.dtype == tl.float64:  # noqa: SIM108  only one of the two can be compiled
        r = 1.0 / tl.sqrt(square)
    else:
        r = tl.div_rn(1.0, tl.sqrt_rn(square))
    return r


@triton.jit
def affine(h, weight, bias, column, COLUMNS: tl.constexpr, WIDE: tl.constexpr):
    """The affine map: h * weight + bias."""
    if weight is not None:
        h = h * tl.load(weight + column, mask=column < COLUMNS, other=0.0).to(WIDE)[None, :]
    if bias is not None:
        h = h + tl.load(bias + column, mask=column < COLUMNS, other=0.0).to(WIDE)[None, :]
    return h


@triton.jit
def hat(
    value,
    high,
    low,
    r,
    weight,
    bias,
    column,
    mask,
    CENTRED: tl.constexpr,
    FROM_OUTPUT: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The normalized h, from x or, if FROM_OUTPUT, from the output; 0 outside the tensor."""
    if FROM_OUTPUT:
        if bias is not None:
            value -= tl.load(bias + column, mask=column < COLUMNS, other=0.0).to(WIDE)[None, :]
        if weight is not None:
            value /= tl.load(weight + column, mask=column < COLUMNS, other=1.0).to(WIDE)[None, :]
    elif CENTRED:
        value = ((value - high) - low) * r
    else:
        value = value * r
    return tl.where(mask, value, 0.0)


@triton.jit
def load_stats(stats, row, valid, WIDE: tl.constexpr):
    """(high, low, r), each (BLOCK_ROWS, 1); high + low is the mean, too precise for one WIDE."""
    mean = tl.load(stats + 2 * row, mask=valid, other=0.0)
    r = tl.load(stats + 2 * row + 1, mask=valid, other=0.0)
    high = mean.to(WIDE)
    low = (mean - high.to(tl.float64)).to(WIDE)
    return high[:, None], low[:, None], r.to(WIDE)[:, None]


@triton.jit
def store_stats(stats, row, valid, mean, r):
    """Store (mean, r) of every row, float64."""
    tl.store(stats + 2 * row, mean, mask=valid)
    tl.store(stats + 2 * row + 1, r.to(tl.float64), mask=valid)


@triton.jit
def row_sums(
    source,
    outer,
    inner,
    row,
    inner_size,
    first,
    second,
    SQUARED: tl.constexpr,
    WIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Sums along the rows of d = source - first - second, or of d * d: (BLOCK_ROWS,)."""
    total = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), WIDE)
    for start in range(0, COLUMNS, BLOCK_COLUMNS):
        column, mask = columns_of(start, inner, inner_size, COLUMNS, BLOCK_COLUMNS)
        d = load_source(source, outer, inner, row, start, column, mask, WIDE, BLOCK_COLUMNS)
        d = tl.where(mask, (d - first[:, None]) - second[:, None], 0.0)
        total += d * d if SQUARED else d
    return tl.sum(total, 1)
