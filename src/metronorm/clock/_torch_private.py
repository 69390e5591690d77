"""What the clock uses of torch without a public name, each with its reason; read in torch 2.13.

torch is not imported: each function gets the module `torch`, or an object of torch.
`tests/clock/test_torch_private.py` fails when one of these names has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# The objects of a parameter group that make its collectives. Public setters replace them
# (`FSDPModule.set_custom_all_gather`), but no public getter returns the present ones, which a
# wrapper has to call.
COLLECTIVES = ("_all_gather_comm", "_reduce_scatter_comm")


def runs_backward(torch: Any) -> bool:
    """Whether this thread runs a backward pass; `torch` may be None.

    Public only as the error of `at_end_of_backward`, which would queue the call otherwise.
    """
    autograd = getattr(torch, "_C", None)
    return bool(getattr(autograd, "_current_graph_task_id", lambda: -1)() >= 0)


def at_end_of_backward(torch: Any, callback: Callable[[], None]) -> None:
    """Call `callback` when the graph of the running backward pass is done, before it returns.

    Callbacks run in the order in which they were queued. DDP and FSDP wait for their collectives in
    such callbacks; public hooks of tensors, nodes and modules all run earlier.

    Raises:
        RuntimeError: no backward pass runs in this thread.
    """
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def compiled_call(model: Any) -> Callable[..., Any] | None:
    """The function that `model.compile()` has made to be called, or None.

    Calls of a compiled module go to it past the module's hooks, or compile them; there is no hook
    around it.
    """
    compiled: Callable[..., Any] | None = getattr(model, "_compiled_call_impl", None)
    return compiled


def set_compiled_call(model: Any, call: Callable[..., Any]) -> None:
    """Let calls of a compiled module go to `call`."""
    model._compiled_call_impl = call


def takes_step_hooks(optimizer: Any) -> bool:
    """Whether hooks can be registered for the steps of an optimizer.

    Wrappers of other libraries are instances of `torch.optim.Optimizer` and have its methods
    without the attributes that those need.
    """
    return hasattr(optimizer, "_optimizer_step_pre_hooks")


def parameter_groups(module: Any) -> list[Any]:
    """The groups of parameters that `fully_shard` has made of one module; see `COLLECTIVES`."""
    state = module._get_fsdp_state() if hasattr(module, "_get_fsdp_state") else None
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # torch 2.10
        groups = [getattr(state, "_fsdp_param_group", None)]
    return [group for group in groups if group is not None]
