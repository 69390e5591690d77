"""What of torch has no public name, each with its reason; read in torch 2.13.

`tests/optim/test_torch_private.py` says when one of them has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.autograd.graph import Node

OUTSIDE = -1


# A number of the running backward(), another for each; OUTSIDE of any it is that. A backward()
# inside another, as of reentrant checkpoints, has a number of its own. Nothing public says that one
# has begun.
current_backward: Callable[[], int] = torch._C._current_graph_task_id


def at_end_of_backward(call: Callable[[], None]) -> None:
    """Call at the end of the running backward(), after what was to be called there before.

    DDP and FSDP finish gradients there, by the same function; hooks come earlier.
    """
    Variable._execution_engine.queue_callback(call)


def running_node() -> Node | None:
    """The node of the graph that runs; in a hook of a leaf, the one that accumulates.

    At the end of a backward() none does, unless that was called from inside of another.
    """
    node: Node | None = torch._C._current_autograd_node()
    return node


def is_flattened(parameter: Any) -> bool:
    """Whether FullyShardedDataParallel (FSDP1) has the parameter: it makes `.grad` by itself."""
    return bool(getattr(parameter, "_fsdp_flattened", False))
