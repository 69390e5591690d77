"""The three operators as torch knows them: schemas, derivatives, shapes of the results.

    norm           y, stats = normalize(x)
    add_norm       normed, summed, stats = normalize(summed = residual + dropout(x))
    norm_backward  the gradients of both

`stats` holds (mean, r) of every row: (..., 2), float64.

A call takes one of four ways to the same numbers; `_implementation_for` chooses:

    norm(x, arguments)
     ├─ compiled: torch.compile, torch.export ──────────► operator ─┐ torch's autograd, by
     ├─ transformed: torch.func, forward mode ─► composed.py        │ `register_autograd`
     ├─ traced: torch.jit.trace, fake tensors, subclasses► operator ─┤
     └─ eager: a plain tensor                                       │
         ├─ gradients on ──► _Norm, an autograd.Function ──┐        │
         └─ gradients off ─────────────────────────────────┴────────┴─► kernel of the device

The kernel of the device is C++ on CPUs (`kernels.py` loads it), Triton on GPUs (`gpu.py`), and
torch's own operators everywhere else (`composed.py`). The backward pass chooses in the same way.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]

from metronorm.norm import composed
from metronorm.norm._arguments import DropoutArguments, NormArguments
from metronorm.norm._torch_private import below_autograd, is_transformed

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    """The operator on GPUs; its first call loads Triton."""

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

_PLAIN = Tensor, torch.nn.Parameter  # others, subclasses, may want to see the operator

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
    """Normalize the last `dims` dimensions of x; the caller has checked the arguments.

    Returns:
        The normalized x, of its shape, dtype and memory layout.
    """
    run = _implementation_for(x, _Norm.apply, _norm, composed.norm)
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
    """Normalize residual + dropout(x); the caller has checked the arguments.

    Returns:
        The normalized sum, of x's dtype and memory layout, and the sum, of the residual's.
    """
    run = _implementation_for(x, _AddNorm.apply, _add_norm, composed.add_norm)
    found = run(x, residual, weight, bias, dims, eps, centred, save_output, dropout, seed)
    return found[0], found[1]


def _implementation_for(x: Tensor, eager: Any, operator: Any, functional: Any) -> Any:
    """Which of the four ways a call takes; all have the same arguments and results.

    An autograd.Function costs a third of torch's general registration, but only plain eager code
    can take it: `torch.jit.trace` can save a call of an operator, not one of a Function.
    """
    if torch.compiler.is_compiling():
        return operator
    if is_transformed():
        return functional
    if is_tracing() or type(x) not in _PLAIN:
        return operator
    return eager if torch.is_grad_enabled() else functools.partial(below_autograd, operator)


# Derivatives -------------------------------------------------------------------------------------

# The forward pass leaves this in `ctx`, and every backward pass reads it:
#
#     saved_tensors  (saved, stats, weight, bias, seed); `saved` is what was normalized or, with
#                    save_output, the output
#     options        ((dims, eps, centred, save_output), (dtype of x, dtype of what was normalized),
#                    probability of dropout)

_NO_GRADIENT_OF_OPTIONS = (None,) * 4  # dims, eps, centred, save_output
_NO_GRADIENT_OF_DROPOUT = (None,) * 2  # dropout, seed


def _setup_context(
    ctx: Any,
    tensors: tuple[Tensor | None, ...],
    options: Sequence[Any],
    dtypes: tuple[torch.dtype, torch.dtype],
    dropout: float,
) -> None:
    ctx.save_for_backward(*tensors)
    ctx.options = options, dtypes, dropout
    ctx.set_materialize_grads(False)  # an output without gradient stays None


def _setup_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *rest = inputs
    y, stats = output
    weight, bias, *options = arguments = NormArguments(*rest)
    saved = y if arguments.save_output else x
    _setup_context(ctx, (saved, stats, weight, bias, None), options, (x.dtype, x.dtype), 0.0)


def _setup_add_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, *rest, dropout, seed = inputs
    normed, summed, stats = output
    weight, bias, *options = arguments = NormArguments(*rest)
    tensors = normed if arguments.save_output else summed, stats, weight, bias, seed
    _setup_context(ctx, tensors, options, (x.dtype, residual.dtype), dropout)


def _backward(
    ctx: Any,
    dy: Tensor | None,
    dsummed: Tensor | None,
    dstats: Tensor | None,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """(dsum, dx, dweight, dbias) from the gradients of the outputs."""
    saved, stats, weight, bias, seed = ctx.saved_tensors
    options, (x_dtype, dtype), dropout = ctx.options
    arguments = weight, bias, *options
    if dy is None:
        dy = torch.zeros_like(saved, dtype=x_dtype)
    if dstats is not None:
        extra = composed.through_stats(dstats, saved, stats, NormArguments(*arguments)).to(dtype)
        dsummed = extra if dsummed is None else dsummed + extra
    args = (dy, dsummed, saved, stats, *arguments, dtype, dropout, seed, need_weight, need_bias)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(dy) not in _PLAIN:
        dsum, dx, dweight, dbias = _norm_backward(*args)
    else:
        dsum, dx, dweight, dbias = below_autograd(_norm_backward, *args)
    if not composed.has_own_dx(x_dtype, dtype, seed):
        dx = dsum
    return dsum, dx, dweight if need_weight else None, dbias if need_bias else None


def _norm_gradients(ctx: Any, dy: Tensor | None, dstats: Tensor | None = None) -> Any:
    _, need_weight, need_bias, *_ = ctx.needs_input_grad
    dx, _, dweight, dbias = _backward(ctx, dy, None, dstats, need_weight, need_bias)
    return dx, dweight, dbias, *_NO_GRADIENT_OF_OPTIONS


def _add_norm_gradients(
    ctx: Any, dy: Tensor | None, dsummed: Tensor | None, dstats: Tensor | None = None
) -> Any:
    _, _, need_weight, need_bias, *_ = ctx.needs_input_grad
    dsum, dx, dweight, dbias = _backward(ctx, dy, dsummed, dstats, need_weight, need_bias)
    return dx, dsum, dweight, dbias, *_NO_GRADIENT_OF_OPTIONS, *_NO_GRADIENT_OF_DROPOUT


def _setup_norm_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, dsummed, saved, stats, weight, bias, *rest = inputs
    *ctx.options, _dtype, ctx.dropout, seed, _need_weight, _need_bias = rest
    ctx.save_for_backward(dy, dsummed, saved, stats, weight, bias, seed)
    ctx.set_materialize_grads(False)


def _norm_backward_gradients(ctx: Any, *slopes: Tensor | None) -> Any:
    """The double backward: gradients of `norm_backward`'s inputs."""
    dy, dsummed, saved, stats, weight, bias, seed = ctx.saved_tensors
    found = composed.double_backward(
        slopes,
        dy,
        saved,
        stats,
        NormArguments(weight, bias, *ctx.options),
        DropoutArguments(ctx.dropout, seed),
    )
    inputs = {
        "dy": dy,
        "dsummed": dsummed,
        "saved": saved,
        "stats": stats,
        "weight": weight,
        "bias": bias,
    }
    # needs_input_grad goes on with the options, for which nothing is ever needed
    gradients = [
        found[name].to(tensor.dtype) if needed and name in found else None
        for (name, tensor), needed in zip(inputs.items(), ctx.needs_input_grad, strict=False)
    ]
    rest = (None,) * (len(ctx.needs_input_grad) - len(inputs))
    return *gradients, *rest


for _name, _setup, _gradients in (
    ("norm", _setup_norm, _norm_gradients),
    ("add_norm", _setup_add_norm, _add_norm_gradients),
    ("norm_backward", _setup_norm_backward, _norm_backward_gradients),
):
    torch.library.register_autograd(
        f"metronorm::{_name}", _gradients, setup_context=_setup, lib=_library
    )


# The eager way. What is returned besides y or the sum is differentiable, and so costs time: stats
# are returned only where a gradient passes through them (see `composed.double_backward`).


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        dims: int,
        eps: float,
        centred: bool,
        save_output: bool,
    ) -> Any:
        options = dims, eps, centred, save_output
        output = below_autograd(_norm, x, weight, bias, *options)
        y, stats = output
        tensors = y if save_output else x, stats, weight, bias, None
        _setup_context(ctx, tensors, options, (x.dtype, x.dtype), 0.0)
        return output if save_output else (y,)

    backward = staticmethod(_norm_gradients)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
    ) -> Any:
        options = dims, eps, centred, save_output
        output = below_autograd(_add_norm, x, residual, weight, bias, *options, dropout, seed)
        normed, summed, stats = output
        tensors = normed if save_output else summed, stats, weight, bias, seed
        _setup_context(ctx, tensors, options, (x.dtype, residual.dtype), dropout)
        return output if save_output else (normed, summed)

    backward = staticmethod(_add_norm_gradients)


# Shapes and dtypes of the results, for tracing ---------------------------------------------------


def _fake_norm(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    dims = NormArguments(*rest).dims
    stats = x.new_empty((*x.shape[:-dims], 2), dtype=composed.stats_dtype(x.device))
    return torch.empty_like(x), stats


def _fake_add_norm(x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *arguments, _dropout, _seed = rest
    _, stats = _fake_norm(residual, *arguments)
    return torch.empty_like(x), torch.empty_like(residual), stats


def _fake_norm_backward(
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
) -> composed.Backward:
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
