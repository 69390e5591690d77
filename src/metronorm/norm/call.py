"""One call of a norm: its arguments are checked, then the operator runs.

`torch.fx` records such a call whole, as one node: what is checked are values, and what is drawn is
drawn anew in every run. For that, a module that calls one says `fx.wrap`. `torch.jit.script` takes
the first branch of each and leaves the other out: the same operators, from TorchScript.
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
    """The normalized x; all but the tensors has been checked. An eps of None is torch's."""
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
    """(normed, summed) of x and residual: in one pass, or by torch's own dropout and add first."""
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
    """What `eps=None` stands for, as in torch: the machine epsilon of the dtype of computation."""
    return torch.finfo(wide_dtype(x.dtype)).eps
