"""The three operators, as torch knows them: schema, fake, derivatives.

    norm           y, stats = normalize(x)
    add_norm       normed, summed, stats = normalize(summed = residual + dropout(x))
    norm_backward  the gradients of both

`kernels.py` gives them C++ on processors, `gpu.py` Triton on GPUs, `composed.py` torch's own
operators everywhere else, under `torch.func` too. `stats` is (mean, r) of every row.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]

from metronorm.norm import composed

if TYPE_CHECKING:
    from types import ModuleType

_AFFINE = "Tensor? weight, Tensor? bias, int dims, float eps, bool centred, bool save_output"
_DROPOUT = "float dropout, Tensor? seed"
_SCHEMAS = {
    "norm": f"(Tensor x, {_AFFINE}) -> (Tensor, Tensor)",
    "add_norm": f"(Tensor x, Tensor residual, {_AFFINE}, {_DROPOUT}) -> (Tensor, Tensor, Tensor)",
    "norm_backward": f"(Tensor dy, Tensor? dsummed, Tensor saved, Tensor stats, {_AFFINE}, "
    f"ScalarType dtype, {_DROPOUT}, bool need_weight, bool need_bias) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
}
COMPOSED = {name: getattr(composed, name) for name in _SCHEMAS}
_library = torch.library.Library("metronorm", "DEF")
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, COMPOSED[_name], "CompositeExplicitAutograd")


def _on_gpu(name: str) -> Any:
    """Triton is loaded by the first tensor on a GPU."""

    def run(*args: Any) -> Any:
        return getattr(_gpu(), name)(*args)

    return run


@functools.cache
def _gpu() -> ModuleType:
    try:
        from metronorm.norm import gpu
    except ImportError as error:
        warnings.warn(f"metronorm.norm runs on torch's operators on GPUs: {error}", stacklevel=2)
        return composed
    return gpu


for _name in _SCHEMAS:
    _library.impl(_name, _on_gpu(_name), "CUDA")

_norm = torch.ops.metronorm.norm.default
_add_norm = torch.ops.metronorm.add_norm.default
_norm_backward = torch.ops.metronorm.norm_backward.default


def norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    *,
    centred: bool,
    save_output: bool,
) -> Tensor:
    """Normalize the last `dims` dimensions of x; arguments have been checked."""
    run = _how(x, _Norm.apply, _norm, composed.norm)
    return run(x, weight, bias, dims, eps, centred, save_output)[0]  # type: ignore[no-any-return]


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    *,
    centred: bool,
    save_output: bool,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(normalized sum, sum) of residual and dropout(x); arguments have been checked."""
    run = _how(x, _AddNorm.apply, _add_norm, composed.add_norm)
    found = run(x, residual, weight, bias, dims, eps, centred, save_output, dropout, seed)
    return found[0], found[1]


def _how(x: Tensor, eager: Any, operator: Any, functional: Any) -> Any:
    """Which of four ways to the same numbers.

    A Function in Python costs a third of torch's general registration, but only plain eager code
    can take it: what `torch.jit.trace` records must be an operator, to be saved. `torch.func` and
    forward mode take neither of them, only torch's own operators.
    """
    if torch.compiler.is_compiling():
        return operator
    if composed.is_transformed():
        return functional
    if is_tracing() or not _is_plain(x):
        return operator
    return eager if torch.is_grad_enabled() else functools.partial(_below_autograd, operator)


def _is_plain(x: Tensor) -> bool:
    return type(x) is Tensor or type(x) is torch.nn.Parameter


def _below_autograd(operator: Any, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


# Derivatives -------------------------------------------------------------------------------------


def _keep(
    ctx: Any, saved: Tensor, stats: Tensor, dtypes: tuple[torch.dtype, ...], *args: Any
) -> None:
    weight, bias, *options, dropout, seed = args
    ctx.args = options, dtypes, dropout  # dtypes of x and of what is normalized
    ctx.save_for_backward(saved, stats, weight, bias, seed)
    ctx.set_materialize_grads(False)


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *args = inputs
    y, stats = output
    _keep(ctx, y if args[5] else x, stats, (x.dtype, x.dtype), *args, 0.0, None)


def _keep_add_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, *args = inputs
    normed, summed, stats = output
    _keep(ctx, normed if args[5] else summed, stats, (x.dtype, residual.dtype), *args)


def _slopes(
    ctx: Any, dy: Tensor | None, dsummed: Tensor | None, dstats: Tensor | None, at: int
) -> Any:
    """(dsum, dx, dweight, dbias); `at` is where weight stands among the inputs."""
    saved, stats, weight, bias, seed = ctx.saved_tensors
    options, (x_dtype, dtype), dropout = ctx.args
    affine = weight, bias, *options
    if dy is None:
        dy = torch.zeros_like(saved, dtype=x_dtype)
    if dstats is not None:
        extra = composed.through_stats(dstats, saved, stats, *affine).to(dtype)
        dsummed = extra if dsummed is None else dsummed + extra
    need_weight = weight is not None and ctx.needs_input_grad[at]
    need_bias = bias is not None and ctx.needs_input_grad[at + 1]
    needs = need_weight, need_bias
    args = (dy, dsummed, saved, stats, *affine, dtype, dropout, seed, *needs)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _is_plain(dy):
        dsum, dx, dweight, dbias = _norm_backward(*args)
    else:
        dsum, dx, dweight, dbias = _below_autograd(_norm_backward, *args)
    if not composed.has_own_dx(x_dtype, dtype, seed):
        dx = dsum
    return dsum, dx, dweight if need_weight else None, dbias if need_bias else None


def _norm_slopes(ctx: Any, dy: Tensor | None, dstats: Tensor | None = None) -> Any:
    dsum, _, dweight, dbias = _slopes(ctx, dy, None, dstats, at=1)
    return dsum, dweight, dbias, *(None,) * 4


def _add_norm_slopes(
    ctx: Any, dy: Tensor | None, dsummed: Tensor | None, dstats: Tensor | None = None
) -> Any:
    dsum, dx, dweight, dbias = _slopes(ctx, dy, dsummed, dstats, at=2)
    return dx, dsum, dweight, dbias, *(None,) * 6


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, dsummed, saved, stats, weight, bias, *ctx.args, _, dropout, seed, _, _ = inputs
    ctx.dropout = dropout
    ctx.save_for_backward(dy, dsummed, saved, stats, weight, bias, seed)
    ctx.set_materialize_grads(False)


def _backward_slopes(ctx: Any, *slopes: Tensor | None) -> Any:
    *tensors, seed = ctx.saved_tensors
    names = ("dy", "dsummed", "saved", "stats", "weight", "bias")
    dy, _, saved, stats, weight, bias = tensors
    args: Any = (dy, saved, stats, weight, bias, *ctx.args, ctx.dropout, seed)
    found = composed.double_backward(slopes, *args)
    given = [
        found[name].to(tensor.dtype) if needed and name in found else None
        for name, tensor, needed in zip(names, tensors, ctx.needs_input_grad, strict=False)
    ]
    return *given, *(None,) * 9


for _name, _keep_it, _derive in (
    ("norm", _keep_norm, _norm_slopes),
    ("add_norm", _keep_add_norm, _add_norm_slopes),
    ("norm_backward", _keep_backward, _backward_slopes),
):
    torch.library.register_autograd(
        f"metronorm::{_name}", _derive, setup_context=_keep_it, lib=_library
    )


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _below_autograd(_norm, *inputs)
        _keep_norm(ctx, inputs, output)
        return output if inputs[6] else output[:1]

    backward = staticmethod(_norm_slopes)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _below_autograd(_add_norm, *inputs)
        _keep_add_norm(ctx, inputs, output)
        return output if inputs[7] else output[:2]

    backward = staticmethod(_add_norm_slopes)


# What tracing needs ------------------------------------------------------------------------------


def _fake_norm(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    dims = args[2]
    stats = x.new_empty((*x.shape[:-dims], 2), dtype=composed.stats_dtype(x.device))
    return torch.empty_like(x), stats


def _fake_add_norm(x: Tensor, residual: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, stats = _fake_norm(residual, *args)
    return torch.empty_like(x), torch.empty_like(residual), stats


def _fake_norm_backward(
    dy: Tensor,
    dsummed: Tensor | None,
    saved: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *args: Any,
) -> composed.Backward:
    dtype, _, seed, need_weight, need_bias = args[4:]
    dsum = torch.empty_like(saved, dtype=dtype)
    own = composed.has_own_dx(dy.dtype, dtype, seed)
    dx = torch.empty_like(saved, dtype=dy.dtype) if own else dy.new_empty(0)
    dweight = dy.new_empty(0)
    dbias = dy.new_empty(0)
    if need_weight and weight is not None:
        dweight = weight.new_empty(weight.shape)
    if need_bias and bias is not None:
        dbias = bias.new_empty(bias.shape)
    return dsum, dx, dweight, dbias


torch.library.register_fake("metronorm::norm", _fake_norm, lib=_library)
torch.library.register_fake("metronorm::add_norm", _fake_add_norm, lib=_library)
torch.library.register_fake("metronorm::norm_backward", _fake_norm_backward, lib=_library)
