"""Normalization composed of torch's own operators: any device, any order of derivative.

It is what runs where there is no kernel, and what the kernels' second and third derivatives and
`vmap` are made of. Everything is computed in float32 at least.

Notation, per row of n elements: d = x - mean(x), r = 1 / sqrt(mean(d * d) + eps), h = d * r; root
mean square normalization is the same with d = x. What projects a slope v onto x is
P(v) = v - mean(v) - h * mean(v * h), without mean(v) where nothing is centred.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from metronorm.norm.dropout import keep_scale

Backward = tuple[Tensor, Tensor, Tensor, Tensor]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which dtype a tensor of `dtype` is computed: float32 or float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def stats_dtype(device: torch.device) -> torch.dtype:
    """float64, so that the mean of badly centred rows is kept; float32 where a device has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_transformed() -> bool:
    """Whether `torch.func` or forward mode looks on: they want torch's operators."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
) -> tuple[Tensor, Tensor]:
    """The normalized x in x's dtype and layout, and (mean, r) of every row, (..., 2)."""
    if centred and not _recorded():
        y, mean, r = _torchs(x, weight, bias, dims, eps)
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
    """Gradients of what was normalized, of x before its dropout, of weight and of bias.

    `saved` is what was normalized, or the output where `save_output`. Those that are not needed
    are empty; so is that of x where it is that of what was normalized.
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
    # Torch's is not exactly 0 for rows of one element.
    if centred and not save_output and not _recorded() and saved.shape[-dims:].numel() > 1:
        wide_weight = None if weight is None else weight.to(wide)
        parts = rest.contiguous(), r.to(wide).contiguous()  # which the operator takes for granted
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
    """Whether the gradient of x differs from that of the sum: by dropout, or by its dtype."""
    return seed is not None or x_dtype != dtype


def double_backward(
    slopes: tuple[Tensor | None, ...],
    dy: Tensor,
    saved: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
    dropout: float,
    seed: Tensor | None,
) -> dict[str, Tensor]:
    """Gradients of `norm_backward`'s inputs, from those of its outputs, by name; differentiable.

    With L = <u, dsum> + <p, dweight> + <q, dbias>, a = dy * weight and
    S = sum(u * a) - n * mean(u) * mean(a) - n * mean(u * h) * mean(a * h):

        dL/ddy     = weight * r * P(u) + p * h + q
        dL/dweight = sum over rows of dy * r * P(u)
        dL/dh      = k = p * dy - r * (u * mean(a * h) + a * mean(u * h))
        dL/dr      = S
        dL/dx      = r * P(k) - S * r * r * h / n

    Where the output was saved, h = (y - bias) / weight is a function of y, and r one of x: their
    gradients go to y and to stats, from where the operator that computed those takes them to x.
    """
    u, through_x, p, q = slopes
    axes = tuple(range(-dims, 0))
    wide = wide_dtype(saved.dtype)
    n = saved.shape[-dims:].numel()
    if through_x is not None and through_x.numel():
        if seed is not None:
            scale = keep_scale(saved.shape, dims, dropout, seed, wide)
            through_x = through_x.to(wide) * scale
        u = through_x if u is None else u.to(wide) + through_x
    h, r = _saved_hat(saved, stats, weight, bias, dims, eps, centred, save_output)
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
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
) -> Tensor:
    """The gradient of what was normalized that comes from those of mean and r.

    dmean / n - dr * r * r * h / n, differentiable; only the double backward of `save="output"`
    asks for it.
    """
    h, r = _saved_hat(saved, stats, weight, bias, dims, eps, centred, save_output)
    dmean, dr = (_columns(part, dims).to(h.dtype) for part in dstats.unbind(-1))
    return (dmean * centred - dr * r * r * h) / saved.shape[-dims:].numel()


def _saved_hat(
    saved: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    centred: bool,
    save_output: bool,
) -> tuple[Tensor, Tensor]:
    """(h, r), differentiable: of x where x was saved, of the output and of stats otherwise."""
    if save_output:
        wide = wide_dtype(saved.dtype)
        return _unaffine(saved.to(wide), weight, bias), _columns(stats[..., 1], dims).to(wide)
    h, _, r = _hat(saved, dims, eps, centred)
    return h, r


def _columns(row: Tensor, dims: int) -> Tensor:
    """One number per row, against the normalized dimensions."""
    return row.reshape(*row.shape, *(1,) * dims)


def _hat(x: Tensor, dims: int, eps: float, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(h, mean, r); mean and r have the normalized dimensions as ones, mean is of `stats_dtype`."""
    axes = tuple(range(-dims, 0))
    d = x.to(wide_dtype(x.dtype))
    mean = torch.zeros_like(d[(...,) + (slice(1),) * dims]).to(stats_dtype(x.device))
    if centred:  # twice: the first mean of a badly centred row is not the mean
        for _ in range(2):
            step = d.mean(axes, keepdim=True)
            d, mean = d - step, mean + step
    r = (d.square().mean(axes, keepdim=True) + eps).rsqrt()
    return d * r, mean, r


def _torchs(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, r) by torch's norm, on rows that were centred in the dtype of computation."""
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
    """The values in the layout an operator promises: that of `empty_like(x)`."""
    if is_transformed():  # transforms have their own idea of layouts
        return values.to(dtype)
    return torch.empty_like(x, dtype=dtype).copy_(values)


def _recorded() -> bool:
    """Whether somebody may differentiate this: then every step must be an operator that can be."""
    return torch.is_grad_enabled() or is_transformed()
