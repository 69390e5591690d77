"""Where the gradient of a weight goes: straight into its `.grad`, or back to autograd.

| the backward pass that runs | the gradient is |
| --- | --- |
| does not need it (`backward(inputs=...)` of others) | not computed |
| `torch.autograd.grad` of the weight | returned |
| `backward()`, and all of the conditions below hold | added to `.grad` |
| `backward()` otherwise | returned: autograd adds it to `.grad`, and calls hooks |

What is added needs no tensor of the weight's size beside `.grad`. The conditions, which are looked
at in the backward pass:

- The weight is a leaf, a plain tensor or Parameter. A weight that FSDP or tensor parallelism has
  made, or that is computed from others (a parametrization, a cast), is none.
- There is no process group: DDP and FSDP2 reduce gradients when autograd adds them.
- It has no hook that must see the whole gradient: none of `register_hook`, and of
  `register_post_accumulate_grad_hook` only those that have the attribute `takes_parts = True`. They
  are called after each part of a gradient, and a tied weight gets several in one backward pass.
- `.grad` is None, or a plain dense tensor; in the dtype in which the gradient is computed. So it is
  float32 at least: what is added in several steps is rounded once, never to bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from metronorm.loss._torch_private import accumulates, hooks_after, hooks_before

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.autograd.graph import Node

    Write = Callable[[Tensor, bool], None]


def pass_on(
    write: Write, node: Node, leaf: Tensor | None, like: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """Compute the gradient of a weight, and add it to `.grad` or return it. In a backward pass.

    Args:
        write: adds the gradient to a tensor of the weight's shape, or overwrites one that is not
            initialized if its second argument is True.
        node: of the graph, that the gradient is returned to.
        leaf: the weight, if it is a leaf.
        like: a tensor of the weight's shape and device.
        dtype: in which the gradient is computed.

    Returns:
        The gradient; None where it was added, or is not needed.
    """
    runs = accumulates(node)
    if runs is False:
        return None
    if runs and leaf is not None and _takes_parts(leaf, dtype):
        _add(write, leaf, dtype)
        return None
    gradient = torch.empty_like(like, dtype=dtype, requires_grad=False)
    write(gradient, True)
    return gradient


def _takes_parts(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the last four conditions hold."""
    if type(weight) not in (torch.Tensor, nn.Parameter) or hooks_before(weight):
        return False
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return False
    if not all(getattr(hook, "takes_parts", False) for hook in hooks_after(weight)):
        return False
    total = weight.grad
    if total is None:
        return (weight.grad_dtype or weight.dtype) == dtype
    dense = type(total) is torch.Tensor and total.layout is torch.strided
    return dense and total.dtype == dtype and not total.requires_grad


def _add(write: Write, weight: Tensor, dtype: torch.dtype) -> None:
    """Do with `.grad` what autograd does."""
    if weight.grad is None:
        total = torch.empty_like(weight, dtype=dtype, requires_grad=False)
        write(total, True)
        weight.grad = total
    else:
        write(weight.grad, False)
    for hook in hooks_after(weight):
        hook(weight)
