"""Decides whether the backward pass can start from the output instead of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.jit import is_tracing  # type: ignore[attr-defined]

from metronorm.norm._torch_private import has_no_values, is_transformed

if TYPE_CHECKING:
    from torch import Tensor

# The output y = h * weight + bias is rounded. In h = (y - bias) / weight that rounding error is
# multiplied by (|h * weight| + |bias|) / |weight|. With these limits a gradient loses two bits at
# most.
_LARGEST_OFFSET = 4.0
_SMALLEST_WEIGHT = 1e-3


def can_save_output(weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether h can be recovered from y = h * weight + bias with at most two bits lost.

    Every |weight| must be at least 1e-3, and at least a quarter of its |bias|. Every call reads the
    parameters, because no reliable sign shows that they have changed; on a GPU this waits for the
    device. A tracer cannot read values, so the answer is no while tracing.

    Args:
        weight: the normalized shape.
        bias: the normalized shape.
    """
    if not torch.is_grad_enabled() or is_transformed():
        return False
    if torch.compiler.is_compiling() or is_tracing():
        return False
    if weight is None:
        return bias is None  # a bias without a weight has no limit to its size
    if has_no_values(weight):
        return False
    if weight.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    with torch.no_grad():
        size = weight.abs().float()
        fine = size >= _SMALLEST_WEIGHT
        if bias is not None:
            fine &= bias.abs().float() <= _LARGEST_OFFSET * size
        return bool(fine.all())
