"""The private names of torch that the optimizers use, each with its reason; read in torch 2.13.

`tests/optim/test_torch_private.py` fails when one of them has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.autograd.graph import Node

OUTSIDE = -1


# The number of the running backward(); each call has another one. It is OUTSIDE if none runs. A
# backward() inside another one, as with reentrant checkpoints, has its own number. No public name
# shows that a backward() has begun.
current_backward: Callable[[], int] = torch._C._current_graph_task_id


def at_end_of_backward(call: Callable[[], None]) -> None:
    """Call `call` at the end of the running backward(), after all calls that were queued before.

    DDP and FSDP finish gradients there, by the same function. Hooks are called earlier.
    """
    Variable._execution_engine.queue_callback(call)


def running_node() -> Node | None:
    """The node of the graph that runs; in a hook of a leaf, the node that accumulates.

    None at the end of a backward(), unless it was called inside another one.
    """
    node: Node | None = torch._C._current_autograd_node()
    return node


def is_flattened(parameter: Any) -> bool:
    """Whether FullyShardedDataParallel (FSDP1) owns the parameter: it makes a new `.grad`."""
    return bool(getattr(parameter, "_fsdp_flattened", False))
