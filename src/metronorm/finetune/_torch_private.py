"""The parts of torch that have no public name: one small function each, with its reason.

Everything here was read in torch 2.13. `tests/finetune/test_torch_private.py` has one test for each
function, which fails where another version of torch behaves differently.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_slope(slope: Tensor, weights: Tensor) -> Tensor:
    """The gradient of what a softmax over the last dimension was of.

    Reason: one pass over the weights instead of three. Public alternative:
    `weights * (slope - (weights * slope).sum(-1, keepdim=True))`.

    Args:
        slope: the gradient of the weights, of their shape.
        weights: what the softmax gave.
    """
    return torch._softmax_backward_data(slope, weights, -1, weights.dtype)


def has_hooks_of_saved() -> bool:
    """Whether somebody decides already what a graph keeps, as activation checkpointing does.

    Reason: of several such hooks the innermost alone is asked. Public alternative: none.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
