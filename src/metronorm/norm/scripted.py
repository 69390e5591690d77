"""The part of `call.py` that `torch.jit.script` compiles, in TorchScript's subset of Python.

It calls the same operators, so values and gradients are the same. TorchScript cannot raise our
errors: a wrong input ends in an `AssertionError`, or in the operator's `RuntimeError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    Sizes = tuple[int, ...]
else:
    Sizes = list[int]  # TorchScript has no tuples of unknown length and makes lists of them


def norm(
    x: Tensor,
    shape: Sizes,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    centred: bool,
) -> Tensor:
    """The normalized x, (..., *shape); the backward pass keeps the input."""
    _check(x, shape)
    eps = _eps(x) if eps is None else eps
    return torch.ops.metronorm.norm(x, weight, bias, len(shape), eps, centred, False)[0]  # type: ignore[no-any-return]


def add_norm(
    x: Tensor,
    residual: Tensor,
    shape: Sizes,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    centred: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """(normed, summed) of summed = residual + dropout(x), both (..., *shape), in one pass."""
    _check(x, shape)
    eps = _eps(residual) if eps is None else eps
    seed: Tensor | None = None
    if dropout > 0:
        seed = torch.randint(0, 4611686018427387904, [], dtype=torch.int64, device=x.device)
    normed, summed, _ = torch.ops.metronorm.add_norm(
        x, residual, weight, bias, len(shape), eps, centred, False, dropout, seed
    )
    return normed, summed


def _check(x: Tensor, shape: Sizes) -> None:
    assert x.shape[-len(shape) :] == shape, "x must end in the normalized shape"


def _eps(x: Tensor) -> float:
    """The machine epsilon of float64 or float32."""
    return 2.220446049250313e-16 if x.dtype == torch.float64 else 1.1920928955078125e-07
