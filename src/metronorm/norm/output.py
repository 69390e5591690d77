"""When the backward pass can start from the output instead of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from torch import Tensor

# What is rounded is y = h * weight + bias; h = (y - bias) / weight carries that rounding error
# multiplied by (|h * weight| + |bias|) / |weight|. Up to this, no bit worth mentioning is lost.
_LARGEST_OFFSET = 4.0
_SMALLEST_WEIGHT = 1e-3

_known = WeakIdKeyDictionary()  # weight: (state of the parameters, answer)


def can_save_output(weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether h can be had back from y = h * weight + bias without loss worth mentioning.

    Every |weight| must be at least 1e-3 and a quarter of its |bias|. The answer is remembered until
    the parameters change: a GPU is asked once per update. Tracing cannot ask, so that the answer is
    no there.
    """
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or not torch.is_grad_enabled():
        return False
    if weight is None:
        return bias is None  # alone, it can be as large as it likes
    state = (weight._version, None if bias is None else (id(bias), bias._version))
    known = _known.get(weight)
    if known is not None and known[0] == state:
        return bool(known[1])
    with torch.no_grad():
        size = weight.detach().abs().float()
        fine = size >= _SMALLEST_WEIGHT
        if bias is not None:
            fine &= bias.detach().abs().float() <= _LARGEST_OFFSET * size
        answer = bool(fine.all())
    _known[weight] = state, answer
    return answer
