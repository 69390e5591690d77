"""Normalization composed of torch's own operators: any device, any order of derivative.

It runs where there is no kernel, under `vmap`, and for the second and higher derivatives of the
kernels. All of it is computed in float32 or float64.

Notation, for a row of n elements: d = x - mean(x), r = 1 / sqrt(mean(d * d) + eps), h = d * r. RMS
normalization is the same with d = x. A gradient v of h gives the gradient r * P(v) of x, where
P(v) = v - mean(v) - h * mean(v * h), without mean(v) for RMS normalization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metronorm.norm._torch_private import is_transformed
from metronorm.norm.dropout import keep_scale

if TYPE_CHECKING:
    from metronorm.norm._arguments import DropoutArguments, NormArguments

Backward = tuple[Tensor, Tensor, Tensor, Tensor]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of computation for tensors of `dtype`: float32 or float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stats_dtype(device: torch.device) -> torch.dtype:
    """The dtype of (mean, r): float64, for rows far from zero; float32 on devices without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
) -> tuple[Tensor, Tensor]:
    """The normalized x, of x's dtype and layout, and (mean, r) of every row, (..., 2)."""
    if centred and not _may_be_differentiated():
        y, mean, r = _native(x, weight, bias, dims, eps)
    else:
        h, mean, r = _hat(x, dims, eps, centred)
        y = _affine(h, weight, bias)
    y = _like(x, y, x.dtype)
    stats = torch.stack((mean, r.to(mean.dtype)), dim=-1)
    return y, stats.reshape(*x.shape[:-dims], 2)


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
    dropped = x.to(wide_dtype(residual.dtype))
    if seed is not None:
        dropped = dropped * keep_scale(x.shape, dims, dropout, seed, dropped.dtype)
    summed = _like(residual, residual + dropped, residual.dtype)
    normed, stats = norm(summed, weight, bias, dims, eps, centred, save_output)
    return _like(x, normed, x.dtype), summed, stats


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

    Without a residual the "sum" is x. `saved` is the sum or, with `save_output`, the output;
    `dtype` is the dtype of the sum. A gradient that is not needed is empty, and so is the gradient
    of x where it equals that of the sum (see `has_own_dx`).
    """
    wide = wide_dtype(dtype)
    mean, r = (_columns(part, dims) for part in stats.unbind(-1))
    if save_output:
        h = _unaffine(saved.to(wide), weight, bias)
    else:
        high = mean.to(wide)
        d, rest = saved.to(wide) - high, (mean - high).to(wide)
        h = (d - rest) * r.to(wide)
    wide_dy = dy.to(wide)
    native = centred and not save_output and not _may_be_differentiated()
    if native and saved.shape[-dims:].numel() > 1:  # for one element torch's is not exactly 0
        wide_weight = None if weight is None else weight.to(wide)
        parts = rest.contiguous(), r.to(wide).contiguous()  # the operator needs it
        rows = saved.shape[-dims:], *parts, wide_weight, None
        dsum, _, _ = torch.ops.aten.native_layer_norm_backward(
            wide_dy, d, *rows, [True, False, False]
        )
    else:
        slope = wide_dy if weight is None else wide_dy * weight
        dsum = r.to(wide) * _project(slope, h, dims, centred)
    if dsummed is not None:
        dsum = dsum + dsummed
    dx = dy.new_empty(0)
    if has_own_dx(dy.dtype, dtype, seed):
        dx = dsum
        if seed is not None:
            dx = dsum * keep_scale(dsum.shape, dims, dropout, seed, wide)
        dx = _like(saved, dx, dy.dtype)
    dweight, dbias = dy.new_empty(0), dy.new_empty(0)
    if need_weight and weight is not None:
        dweight = _over_rows(wide_dy * h, dims).to(weight.dtype).contiguous()
    if need_bias and bias is not None:
        dbias = _over_rows(wide_dy, dims).to(bias.dtype).contiguous()
    return _like(saved, dsum, dtype), dx, dweight, dbias


def has_own_dx(x_dtype: torch.dtype, dtype: torch.dtype, seed: Tensor | None) -> bool:
    """Whether the gradient of x differs from that of the sum, by dropout or by its dtype."""
    return seed is not None or x_dtype != dtype


def double_backward(
    slopes: tuple[Tensor | None, ...],
    dy: Tensor,
    saved: Tensor,
    stats: Tensor,
    arguments: NormArguments,
    dropout: DropoutArguments,
) -> dict[str, Tensor]:
    """Gradients of the inputs of `norm_backward`, by name; they can be differentiated again.

    `slopes` holds (u, v, p, q): the gradients with respect to its outputs dsum, dx, dweight and
    dbias. v goes through the dropout and is added to u.

    With L = <u, dsum> + <p, dweight> + <q, dbias>, a = dy * weight and
    S = sum(u * a) - n * mean(u) * mean(a) - n * mean(u * h) * mean(a * h):

        dL/ddy     = weight * r * P(u) + p * h + q
        dL/dweight = sum over rows of dy * r * P(u)
        dL/dh      = k = p * dy - r * (u * mean(a * h) + a * mean(u * h))
        dL/dr      = S
        dL/dx      = r * P(k) - S * r * r * h / n

    Where the output was saved, h = (y - bias) / weight depends on y, and r on x. The gradients of h
    and r then go to y and to stats, and the forward operator takes them from there to x.
    """
    u, through_x, p, q = slopes
    weight, bias, dims, _eps, centred, save_output = arguments
    axes = tuple(range(-dims, 0))
    wide = wide_dtype(saved.dtype)
    n = saved.shape[-dims:].numel()
    if through_x is not None and through_x.numel():
        if dropout.seed is not None:
            scale = keep_scale(saved.shape, dims, dropout.dropout, dropout.seed, wide)
            through_x = through_x.to(wide) * scale
        u = through_x if u is None else u.to(wide) + through_x
    h, r = _saved_hat(saved, stats, arguments)
    dy = dy.to(wide)
    a = dy if weight is None else dy * weight
    to_dy, to_h, to_weight = torch.zeros_like(dy), torch.zeros_like(dy), None
    to_r = torch.zeros_like(r)
    if u is not None:
        u = u.to(wide)
        moved = r * _project(u, h, dims, centred)
        to_dy = moved if weight is None else moved * weight
        to_weight = _over_rows(dy * moved, dims)
        uh, ah = (u * h).mean(axes, keepdim=True), (a * h).mean(axes, keepdim=True)
        to_h = -r * (u * ah + a * uh)
        to_r = (u * a).sum(axes, keepdim=True) - n * uh * ah
        if centred:
            to_r = to_r - n * u.mean(axes, keepdim=True) * a.mean(axes, keepdim=True)
    if p is not None and p.numel():
        to_dy, to_h = to_dy + p * h, to_h + p * dy
    if q is not None and q.numel():
        to_dy = to_dy + q
    result = {"dy": to_dy}
    if u is not None:
        result["dsummed"] = u
    if weight is not None and to_weight is not None:
        result["weight"] = to_weight
    if save_output:
        to_y = to_h if weight is None else to_h / weight
        result["saved"] = to_y
        result["stats"] = torch.stack((torch.zeros_like(to_r), to_r), -1).reshape(stats.shape)
        if weight is not None:
            result["weight"] = result.get("weight", 0) - _over_rows(to_y * h, dims)
        if bias is not None:
            result["bias"] = -_over_rows(to_y, dims)
    else:
        result["saved"] = r * _project(to_h, h, dims, centred) - to_r * r * r * h / n
    return result


def through_stats(
    dstats: Tensor,
    saved: Tensor,
    stats: Tensor,
    arguments: NormArguments,
) -> Tensor:
    """The gradient of the normalized sum that comes from the gradients of mean and r.

    It is dmean / n - dr * r * r * h / n, and can be differentiated again. Only the double backward
    of `save="output"` needs it.
    """
    h, r = _saved_hat(saved, stats, arguments)
    dims = arguments.dims
    dmean, dr = (_columns(part, dims).to(h.dtype) for part in dstats.unbind(-1))
    return (dmean * arguments.centred - dr * r * r * h) / saved.shape[-dims:].numel()


def _saved_hat(saved: Tensor, stats: Tensor, arguments: NormArguments) -> tuple[Tensor, Tensor]:
    """(h, r), as functions of x or, where the output was saved, of the output and stats."""
    weight, bias, dims, eps, centred, save_output = arguments
    if save_output:
        wide = wide_dtype(saved.dtype)
        return _unaffine(saved.to(wide), weight, bias), _columns(stats[..., 1], dims).to(wide)
    h, _, r = _hat(saved, dims, eps, centred)
    return h, r


def _columns(row: Tensor, dims: int) -> Tensor:
    """One number per row, with the normalized dimensions as ones."""
    return row.reshape(*row.shape, *(1,) * dims)


def _hat(x: Tensor, dims: int, eps: float, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(h, mean, r); mean and r have the normalized dimensions as ones, mean has `stats_dtype`."""
    axes = tuple(range(-dims, 0))
    d = x.to(wide_dtype(x.dtype))
    mean = torch.zeros_like(d[(...,) + (slice(1),) * dims]).to(stats_dtype(x.device))
    if centred:  # twice: far from zero, the first mean is rounded too much
        for _ in range(2):
            step = d.mean(axes, keepdim=True)
            d, mean = d - step, mean + step
    r = (d.square().mean(axes, keepdim=True) + eps).rsqrt()
    return d * r, mean, r


def _native(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, r) by torch's own layer norm, on rows that are already centred."""
    wide = wide_dtype(x.dtype)
    weight = None if weight is None else weight.to(wide)
    bias = None if bias is None else bias.to(wide)
    d = x.to(wide)
    first = d.mean(tuple(range(-dims, 0)), keepdim=True)
    y, rest, r = torch.native_layer_norm(d - first, x.shape[-dims:], weight, bias, eps)
    return y, first.to(stats_dtype(x.device)) + rest, r


def _affine(h: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = h if weight is None else h * weight
    return y if bias is None else y + bias


def _unaffine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    h = y if bias is None else y - bias
    return h if weight is None else h / weight


def _project(v: Tensor, h: Tensor, dims: int, centred: bool) -> Tensor:
    axes = tuple(range(-dims, 0))
    out = v - h * (v * h).mean(axes, keepdim=True)
    return out - v.mean(axes, keepdim=True) if centred else out


def _over_rows(x: Tensor, dims: int) -> Tensor:
    """Sum of the leading dimensions."""
    return x.sum(tuple(range(x.dim() - dims))) if x.dim() > dims else x


def _like(x: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in the layout that the operator promises: that of `empty_like(x)`."""
    if is_transformed():  # transforms choose layouts themselves
        return values.to(dtype)
    return torch.empty_like(x, dtype=dtype).copy_(values)


def _may_be_differentiated() -> bool:
    """Whether these operators may be differentiated: then each one must be differentiable."""
    return torch.is_grad_enabled() or is_transformed()
