"""AdamW for the groups of `TicksMuon` that are not matrices: exact, and nothing is accumulated.

The second moment needs the window's gradient by itself, so the window cannot be added to the first
moment. `.grad` is the gradient of the window, which is dropped at the tick, as in
`torch.optim.AdamW`, which computes the same update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adam import adam

from metronorm.optim._torch_private import found_inf
from metronorm.optim.blocks import local

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from metronorm.optim.checks import Group

EPS = 1e-8


def adamw_step(
    group: Group,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[dict[str, Any]],
    *,
    held: Tensor | None = None,
) -> None:
    """Update parameters in place; the arithmetic is float32 or better.

    Args:
        group: has `lr`, `betas` and `weight_decay` (decoupled).
        parameters: changed in place.
        gradients: of the same shapes, float32 or better.
        states: per parameter `exp_avg`, `exp_avg_sq` (of the gradient's shape and dtype) and `step`
            (a float32 scalar). An empty one is filled.
        held: a 0-dim bool tensor on the device of the parameters. Where it is True, nothing
            changes, and nothing waits for the device.
    """
    local_parameters = [local(parameter).detach() for parameter in parameters]
    exact = [p.float() if p.dtype.itemsize < 4 else p for p in local_parameters]
    fused = held is not None or all(p.device.type == "cpu" for p in exact)
    for p, state, gradient in zip(exact, states, gradients, strict=True):
        # fused kernels read the count on their device, and the others on the host
        place = p.device if fused else torch.device("cpu")
        if not state:
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
            state["step"] = torch.zeros((), dtype=torch.float32, device=place)
        elif state["step"].device != place:
            state["step"] = state["step"].to(place, non_blocking=fused)
    adam(
        exact,
        [local(gradient) for gradient in gradients],
        [local(state["exp_avg"]) for state in states],
        [local(state["exp_avg_sq"]) for state in states],
        [],  # the largest second moments, of amsgrad
        [state["step"] for state in states],
        fused=fused,
        found_inf=found_inf(held),
        decoupled_weight_decay=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=float(group["lr"]),
        weight_decay=group["weight_decay"],
        eps=EPS,
        maximize=False,
    )
    for parameter, result in zip(local_parameters, exact, strict=True):
        if result is not parameter:
            parameter.copy_(result)
