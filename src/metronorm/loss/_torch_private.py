"""The parts of torch that have no public name: one small function each, with its reason.

Everything here was read in torch 2.13. `tests/loss/test_torch_private.py` has one test for each
function, which fails where another version of torch behaves differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import torch
from torch._compile import _disable_dynamo
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.autograd.graph import Node

P = ParamSpec("P")
T = TypeVar("T")


def accumulates(node: Node) -> bool | None:
    """What the backward pass that runs is going to do with a gradient that reaches a node.

    Reason: `backward()` adds it to `.grad`, `torch.autograd.grad` must return it, and a pass for
    other inputs must drop it. Public alternative: none.

    Args:
        node: of the graph, from `torch.autograd.graph.get_gradient_edge`.

    Returns:
        Whether the pass runs the node; None if the node is a leaf's, and `torch.autograd.grad` is
        going to return its gradient.
    """
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError as error:
        if "autograd.grad()" in str(error):
            return None
        raise


def hooks_before(tensor: Tensor) -> bool:
    """Whether hooks of a tensor want its gradient before it is accumulated (`register_hook`).

    Reason: such a hook must get the whole gradient. Public alternative: none.
    """
    return bool(tensor._backward_hooks)


def hooks_after(tensor: Tensor) -> list[Callable[[Tensor], Any]]:
    """The hooks that autograd calls when it has added to `.grad`.

    Reason: who adds to `.grad` in place of autograd must call them. Public alternative: none to
    find what `register_post_accumulate_grad_hook` has registered.
    """
    hooks: Any = tensor._post_accumulate_grad_hooks
    return [] if hooks is None else list(hooks.values())


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is active, or a level of forward-mode differentiation.

    Reason: both differentiate torch's own operators only. Public alternative: none.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def has_no_values(tensor: Tensor) -> bool:
    """Whether a tensor has a shape but no numbers: on the meta device, or fake.

    Reason: which rows count is not known then. Public alternative: none; `Tensor.is_meta` is False
    for the fake tensors with which torch traces.
    """
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def without_compiler(function: Callable[P, T]) -> Callable[P, T]:
    """Keep torch.compile out of a function, which a compiled function then calls as it is.

    Reason: importing the compiler takes a second, and most training never compiles. Public
    alternative: `torch.compiler.disable`, which imports the compiler when it decorates.
    """
    return cast("Callable[P, T]", _disable_dynamo(function))
