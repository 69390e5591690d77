"""Evaluation: sums over all batches, divided once at the end. Never a mean of means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from metronorm.train.task import Batch


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    sums: Callable[[Batch], dict[str, Any]],
    count: Callable[[Batch], int],
) -> dict[str, float]:
    """The measures over all batches: the sum of each, divided by its count.

    The model is in evaluation mode meanwhile. The host waits for the device once, at the end.

    Args:
        model: put into evaluation mode, and back into its own mode at the end.
        batches: read once.
        sums: of a batch, by name; a pair is a sum and its own divisor.
        count: of a batch: the divisor of all other sums.

    Raises:
        DataError: there are no batches, or what they count is zero.
    """
    training = model.training
    model.eval()
    totals: dict[str, Any] = {}
    divisors: dict[str, Any] = {}
    try:
        for batch in batches:
            number = count(batch)
            for name, value in sums(batch).items():
                value, divisor = value if isinstance(value, tuple) else (value, number)
                value = value.detach() if isinstance(value, torch.Tensor) else value
                # a sum over millions in float32 would lose what one batch adds
                value = value.double() if isinstance(value, torch.Tensor) else float(value)
                totals[name] = totals.get(name, 0.0) + value
                divisors[name] = divisors.get(name, 0) + divisor
    finally:
        model.train(training)
    if not totals or not all(float(divisor) for divisor in divisors.values()):
        raise DataError(
            "an evaluation must have something to count",
            got="no batches" if not totals else "a count of 0",
            fix="a larger share of the data for validation",
        )
    return {name: float(total) / float(divisors[name]) for name, total in totals.items()}
