"""When the backward pass can start from the output instead of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.jit import is_tracing  # type: ignore[attr-defined]

from metronorm.norm.composed import is_transformed

if TYPE_CHECKING:
    from torch import Tensor

# What is rounded is y = h * weight + bias; h = (y - bias) / weight carries that rounding error
# multiplied by (|h * weight| + |bias|) / |weight|. Up to this, a gradient loses two bits at most.
_LARGEST_OFFSET = 4.0
_SMALLEST_WEIGHT = 1e-3


def can_save_output(weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether h can be had back from y = h * weight + bias without a loss worth mentioning.

    Every |weight| must be at least 1e-3 and a quarter of its |bias|. Every call looks at them, as
    nothing tells reliably that parameters have changed: a GPU is waited for. Tracing cannot look,
    so that the answer is no there.
    """
    if not torch.is_grad_enabled() or is_transformed():
        return False
    if torch.compiler.is_compiling() or is_tracing():
        return False
    if weight is None:
        return bias is None  # alone, it can be as large as it likes
    if weight.is_meta or isinstance(weight, FakeTensor):
        return False
    if weight.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    with torch.no_grad():
        size = weight.abs().float()
        fine = size >= _SMALLEST_WEIGHT
        if bias is not None:
            fine &= bias.abs().float() <= _LARGEST_OFFSET * size
        return bool(fine.all())
