"""A beat of `metronorm.keras.Ticks` on torch: in place, by torch's multi-tensor operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from metronorm.keras import _private
from metronorm.keras.variables import native

if TYPE_CHECKING:
    from metronorm.keras.ticks import Ticks


@torch.no_grad()
def apply(optimizer: Ticks, grads: list[Any], variables: list[Any]) -> None:
    """Add the gradients of one beat to the slots; move the variables if it was the last one.

    Args:
        optimizer: the optimizer that has the slots and counts the beats.
        grads: tensors, one for each variable and of its shape.
        variables: variables of the optimizer.
    """
    steps = optimizer.gradient_accumulation_steps or 1
    sums = [native(optimizer.slot(variable)) for variable in variables]
    torch._foreach_add_(sums, list(grads), alpha=1 / steps)
    if steps > 1 and bool((native(_private.beat_count(optimizer)) + 1) % steps):
        return
    rate = optimizer.learning_rate
    if optimizer.weight_decay or any(
        native(variable).dtype != total.dtype
        for variable, total in zip(variables, sums, strict=True)
    ):
        for variable, total in zip(variables, sums, strict=True):
            native(variable).copy_(optimizer.moved(variable, total, rate))
    else:
        alpha = -float(native(rate)) * optimizer.scale
        torch._foreach_add_([native(variable) for variable in variables], sums, alpha=alpha)
    torch._foreach_mul_(sums, optimizer.momentum)
    if optimizer.use_ema:
        _average(optimizer)


def _average(optimizer: Ticks) -> None:
    """Update the moving averages; every `ema_overwrite_frequency` ticks the variables get them."""
    _private.update_moving_averages(optimizer)
    frequency = optimizer.ema_overwrite_frequency
    if frequency and (int(optimizer.iterations) + 1) % frequency == 0:
        optimizer.finalize_variable_values(_private.built_for(optimizer))
