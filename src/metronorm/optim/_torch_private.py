"""The parts of torch that have no public name: one small function each, with its reason.

Everything here was read in torch 2.13. `tests/optim/test_torch_private.py` has one test for each
function, which fails where another version of torch behaves differently.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import torch
from torch._compile import _disable_dynamo
from torch.autograd import Variable
from torch.optim.sgd import sgd

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from torch.autograd.graph import Node
    from torch.optim import Optimizer

P = ParamSpec("P")
T = TypeVar("T")
Class = TypeVar("Class", bound=type)

# --- autograd -------------------------------------------------------------------------------------

OUTSIDE = -1

# The number of the backward() that runs in this thread: each has another one, and a backward()
# inside another (a reentrant checkpoint) has its own. OUTSIDE where none runs.
# Reason: a sum must know when a backward() begins. Public alternative: none.
# It is torch's function itself, because it is called for every gradient.
current_backward: Callable[[], int] = torch._C._current_graph_task_id


def at_end_of_backward(call: Callable[[], None]) -> None:
    """Call a function at the end of the backward() that runs, after those that were queued before.

    Reason: DDP and FSDP finish gradients there, by the same queue. Public alternative: none, as
    hooks of tensors and nodes run earlier.
    """
    Variable._execution_engine.queue_callback(call)


def running_node() -> Node | None:
    """The node of the graph that runs in this thread, or None.

    In a hook of a leaf it is the node that accumulates. In a call at the end of a backward() it is
    None, or the node that called this backward() from inside of another one.

    Reason: `torch.autograd.grad` and `backward` call the same hooks of a leaf, and only the node
    distinguishes them. Public alternative: none.
    """
    node: Node | None = torch._C._current_autograd_node()
    return node


def version(tensor: Tensor) -> int:
    """How many times the tensor, or another one over the same memory, was changed in place.

    Reason: it shows that something changed a sum. Public alternative: none to read it;
    `torch.autograd.graph.increment_version` raises it.
    """
    return tensor._version


# --- the processor --------------------------------------------------------------------------------


@cache
def multiplies_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 matrices on this CPU by oneDNN.

    Without it, on x86 a CPU without AVX-512, it takes about forty times as long as float32 does.

    Reason: to choose the faster way. Public alternative: to time both, which would not choose the
    same way each time.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


# --- modules, wrappers, optimizers ----------------------------------------------------------------


def is_flattened(parameter: Any) -> bool:
    """Whether FullyShardedDataParallel (FSDP1) owns the parameter, and so replaces its `.grad`.

    Reason: a parameter of FSDP1 is an ordinary Parameter except for this mark. Public alternative:
    none for a parameter without its module.
    """
    return bool(getattr(parameter, "_fsdp_flattened", False))


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The dictionary in which a module holds its own buffers.

    Reason: it has to be put back as it was, with buffers that are None or were replaced. Public
    alternative: `named_buffers(recurse=False)`, which leaves out what is None.
    """
    return module._buffers


def without_compiler(method: Callable[P, T]) -> Callable[P, T]:
    """Keep torch.compile out of a method: code that it traces sees no versions of tensors.

    Reason: importing the compiler takes a second, and most training never compiles a step. Public
    alternative: `torch.compiler.disable`, which imports the compiler when a class is defined.
    """
    return cast("Callable[P, T]", _disable_dynamo(method))


def takes_grad_scale(optimizer: Class) -> Class:
    """Class decorator: a GradScaler gives its scale to `step()` and leaves gradients as they are.

    It sets `grad_scale` and `found_inf` of the optimizer, for the time of a step.

    Reason: without it the scaler divides `.grad`, and with it the accumulated sum. Public
    alternative: none; torch's own fused optimizers have this attribute too.
    """
    optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]
    return optimizer


# --- many tensors at once -------------------------------------------------------------------------
# Reason: one call for all tensors; on a GPU also one kernel. Public alternative: a loop. Torch
# documents these functions, but with an underscore and as beta.


def add_each(tensors: list[Tensor], others: list[Tensor], *, factor: float) -> None:
    """`tensor += factor * other`, in place, for every pair of tensors of one shape."""
    torch._foreach_add_(tensors, others, alpha=factor)


def multiply_each(tensors: list[Tensor], factor: float | Tensor) -> None:
    """`tensor *= factor`, in place, for every tensor; the factor may be a 0-dim tensor beside them.

    On a GPU that is one kernel only where such a factor has the dtype of the tensors.
    """
    torch._foreach_mul_(tensors, factor)


def zero_each(tensors: list[Tensor]) -> None:
    """Set every element of every tensor to 0, in place."""
    torch._foreach_zero_(tensors)


def largest_of_each(tensors: list[Tensor]) -> list[Tensor]:
    """The largest absolute value of every tensor, as 0-dim tensors; NaN where one element is.

    The tensors must have elements.
    """
    return list(torch._foreach_norm(tensors, ord=math.inf))


def move_and_multiply(
    parameters: list[Tensor],
    sums: list[Tensor],
    *,
    factor: float | Tensor,
    momentum: float,
    decay: float,
    held: Tensor | None = None,
) -> None:
    """`c += decay * p`, `p += factor * c`, `c *= momentum`, in one sweep over the memory.

    This is the public `torch.optim.sgd.sgd`. What is private: that a gradient and its momentum
    buffer may be the same tensor. Every kernel reads both before it writes either. It computes
    `c = m * c + (1 - dampening) * (c + d * p)` and `p -= lr * c`, and the arguments are chosen so
    that these are the equations above.

    Reason: a step takes a third less time than SGD's. Public alternative: three operations per
    tensor, which read and write the same memory again.

    Args:
        parameters: p, dense and contiguous, all of one device and one dtype (float).
        sums: c, of the same shapes, device and dtype.
        factor: of c in the update of p; or a 0-dim tensor on the device of the parameters, which a
            GPU reads as float32.
        momentum: above 0.5, because torch ignores the buffer at a momentum of 0.
        decay: of p in the update of c.
        held: as for `found_inf`. Where it is True, nothing changes.
    """
    half = 0.5 if decay else 0.0  # part of m: it lets `decay` in, and 1 - half is exact
    rate: Any = -factor / momentum
    if isinstance(rate, torch.Tensor) and rate.device.type != "cpu":
        rate = rate.float()  # kernels on a GPU read its memory as that
    sgd(
        parameters,
        sums,
        list(sums),
        fused=True,
        weight_decay=2 * momentum * decay,
        momentum=momentum - half,
        lr=rate,
        dampening=1 - half,
        nesterov=False,
        maximize=False,
        found_inf=found_inf(held),
    )


# --- updates that the device itself leaves out ----------------------------------------------------


def found_inf(held: Tensor | None) -> Tensor | None:
    """A flag in the form that torch's fused kernels take, as the argument of this name.

    Where it is 1, they leave parameters and moments as they are, bit for bit. Each reads it on the
    device when it runs, so nothing waits.

    Reason: otherwise a kernel writes first and something else must undo it. Public alternative:
    `torch.where` over a second copy of the parameters.

    Args:
        held: a 0-dim bool tensor on the device of the parameters, or None.
    """
    return None if held is None else held.float()


def step_with_found_inf(optimizer: Optimizer, flag: Tensor) -> None:
    """`step()` of one of torch's fused optimizers, which changes nothing where the flag is 1.

    Reason: torch's optimizers take `found_inf` as an attribute that is there for the time of a
    step. Public alternative: GradScaler, which sets this attribute, but scales the loss.

    Args:
        optimizer: all its groups must be fused.
        flag: from `found_inf`.
    """
    optimizer.found_inf = flag  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
