"""What `torch.jit.script` compiles of `call.py`: TorchScript, a part of Python.

The operators are the same, so values and gradients are too. What does not fit ends in an
`AssertionError` or in the operator's `RuntimeError`: TorchScript knows no errors of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    Sizes = tuple[int, ...]
else:
    Sizes = list[int]  # TorchScript makes one of a tuple, and has no tuples of any length


def norm(
    x: Tensor,
    shape: Sizes,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    centred: bool,
) -> Tensor:
    """The normalized x; the input is kept for the backward pass."""
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
    """(normed, summed) of x and residual, in one pass."""
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
