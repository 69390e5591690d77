"""One call of a norm: check the arguments, then run the operator.

Three tracers meet these functions:

    torch.fx          records a call as one node, because the modules that call it use `fx.wrap`.
                      The recorded graph checks values and draws seeds at every run.
    torch.jit.script  compiles the branch `if is_scripting()` and skips the other one. That is why
                      the code below keeps the `else`.
    torch.compile     traces through the checks and records the operator.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]
from torch.nn.functional import dropout as drop

from metronorm.norm import operators, scripted
from metronorm.norm.checks import check_input, check_residual, constant_sizes
from metronorm.norm.composed import wide_dtype
from metronorm.norm.dropout import draw_seed
from metronorm.norm.output import can_save_output
from metronorm.norm.scripted import Sizes  # noqa: TC001  TorchScript looks it up

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING = contextlib.nullcontext()


def normalize(
    x: Tensor,
    shape: Sizes,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    centred: bool,
    save_output: bool,
) -> Tensor:
    """The normalized x, of its shape, dtype and memory layout.

    Args:
        x: (..., *shape).
        shape: the sizes of the dimensions that are normalized together; already checked.
        weight: of shape `shape`.
        bias: of shape `shape`.
        eps: already checked; None is torch's default, see `default_eps`.
        centred: subtract the mean.
        save_output: let the backward pass start from the output where that is precise enough.

    Raises:
        ConfigError: the tensors do not fit together.
    """
    if is_scripting():
        return scripted.norm(x, shape, weight, bias, eps, centred)
    else:  # noqa: RET505
        _check(x, shape, weight, bias)
        return operators.norm(
            x,
            weight,
            bias,
            len(shape),
            default_eps(x) if eps is None else eps,
            centred=centred,
            save_output=save_output and can_save_output(weight, bias),
        )


def add_and_normalize(
    x: Tensor,
    residual: Tensor,
    shape: Sizes,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    centred: bool,
    save_output: bool,
    dropout: float,
    fused: bool,
) -> tuple[Tensor, Tensor]:
    """(normed, summed) of summed = residual + dropout(x); normed has x's dtype.

    Arguments and errors are those of `normalize`, and:

    Args:
        x: (..., *shape).
        residual: of x's shape, and of x's dtype or float32.
        shape: the sizes of the dimensions that are normalized together.
        weight: of shape `shape`.
        bias: of shape `shape`.
        eps: None is torch's default.
        centred: subtract the mean.
        save_output: let the backward pass start from the output.
        dropout: the probability that an element of x is dropped; already checked.
        fused: one pass; otherwise torch's dropout and add, then the norm.
    """
    if is_scripting():
        return scripted.add_norm(x, residual, shape, weight, bias, eps, centred, dropout)
    else:  # noqa: RET505
        _check(x, shape, weight, bias, residual)
        if not fused:
            summed = residual + drop(x, dropout)
            weight, bias = _widened(weight, summed), _widened(bias, summed)
            normed = normalize(summed, shape, weight, bias, eps, centred, save_output)
            return normed.to(x.dtype), summed
        return operators.add_norm(
            x,
            residual,
            weight,
            bias,
            len(shape),
            default_eps(residual) if eps is None else eps,
            centred=centred,
            save_output=save_output and can_save_output(weight, bias),
            dropout=dropout,
            seed=draw_seed(x.device) if dropout > 0 else None,
        )


def _check(
    x: Tensor,
    shape: Sizes,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
) -> None:
    with constant_sizes() if is_tracing() else _NOTHING:
        check_input(x, shape, weight, bias)
        if residual is not None:
            check_residual(x, residual)


def _widened(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    if parameter is None:
        return None
    return parameter.to(torch.promote_types(parameter.dtype, like.dtype))


def default_eps(x: Tensor) -> float:
    """The meaning of `eps=None`, as in torch: the machine epsilon of the dtype of computation."""
    return torch.finfo(wide_dtype(x.dtype)).eps
