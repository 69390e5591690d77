"""A beat of `metronorm.keras.Ticks` on torch: in place, by torch's multi-tensor operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from metronorm.keras.ticks import native

if TYPE_CHECKING:
    from metronorm.keras.ticks import Ticks


@torch.no_grad()
def apply(optimizer: Ticks, grads: list[Any], variables: list[Any]) -> None:
    """Add gradients to the slots; if that was the window's last beat, move the variables.

    Args:
        optimizer: whose slots, and whose iterations tell which beat it is.
        grads: tensors.
        variables: of the same number and shapes.
    """
    steps = optimizer.gradient_accumulation_steps or 1
    sums = [native(optimizer.slot(variable)) for variable in variables]
    torch._foreach_add_(sums, list(grads), alpha=1 / steps)
    if steps > 1 and bool((native(optimizer._iterations) + 1) % steps):
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
        average(optimizer)


def average(optimizer: Ticks) -> None:
    """Update the moving averages, and every so many ticks give them to the variables."""
    optimizer._update_model_variables_moving_average(optimizer._trainable_variables)
    frequency = optimizer.ema_overwrite_frequency
    if frequency and (int(optimizer.iterations) + 1) % frequency == 0:
        optimizer._overwrite_model_variables_with_average_value(optimizer._trainable_variables)
