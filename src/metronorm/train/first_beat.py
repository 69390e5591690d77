"""The first batch, run forward and backward before tick 1: what comes of it, and what it shows."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import ConfigError, DataError, DivergenceError
from metronorm.scalars import as_real
from metronorm.train import buffers
from metronorm.train.batches import halves, same, tensors_of
from metronorm.train.evaluate import evaluating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from metronorm.train.step import Step

_log = logging.getLogger("metronorm")


def check_batch(step: Step, batch: Any) -> list[str]:
    """Run the first batch forward and backward once, and look at what comes of it.

    Returns:
        The names of the buffers that this has changed and that are in a checkpoint.

    Raises:
        ConfigError: a loss that is no scalar or has no gradient; a model with nothing to train.
        DataError: a batch that counts nothing, or one that the model cannot take.
        DivergenceError: a loss that is not finite.
    """
    if not any(parameter.requires_grad for parameter in step.model.parameters()):
        raise ConfigError(
            "a model must have parameters that can be trained",
            got=f"a {type(step.model).__name__} with none that requires a gradient",
        )
    counted = step.task.count(batch)
    number = as_real(counted)
    if number is None or not number.is_integer() or _is_array(counted):
        raise ConfigError("count must give a whole number", got=repr(counted), fix="len(...)")
    count = int(number)
    if count < 1:
        raise DataError("a batch must have something to count", got=f"{count} in the first batch")
    before = buffers.copies(step.model)
    loss = _first_loss(step, batch)
    if loss.dim():
        raise ConfigError(
            "a loss must be a scalar: the sum over a batch",
            got=f"a tensor of shape {tuple(loss.shape)}",
            fix='reduction="sum", or .sum()',
        )
    if not math.isfinite(loss.item()):
        raise DivergenceError(
            "the loss must be finite at the first tick",
            got=f"{loss.item()} for the first batch ({_described(batch)})",
            fix="look for NaN in that batch, or a smaller initialization",
        )
    for name, parameter in step.model.named_parameters():
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise ConfigError(
                "gradients must be dense", got=f"a sparse one of {name}", fix="sparse=False"
            )
    kept, changed = step.model.state_dict().keys(), _changed(step.model, before)
    _warn_of_hidden_buffers(step, batch, [name for name in changed if name not in kept])
    _warn_of_a_mean(step, batch, count)
    return [name for name in changed if name in kept]


def _changed(model: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    now = buffers.copies(model)
    return [name for name, value in now.items() if not same(value, before.get(name))]


def _warn_of_hidden_buffers(step: Step, batch: Any, changed: list[str]) -> None:
    """Of those that no checkpoint has: what a second pass changes too is no cache, filled once."""
    if not changed:
        return
    before = buffers.copies(step.model)
    step.try_out(batch)
    again = _changed(step.model, before)
    if found := [name for name in changed if name in again]:
        _log.warning(
            "a resume of this run will not be exact: every forward pass changes %s, which no "
            "checkpoint has; try: register_buffer(..., persistent=True)",
            ", ".join(found[:5]),
        )


def _is_array(value: Any) -> bool:
    return len(getattr(value, "shape", ())) > 0


def _first_loss(step: Step, batch: Any) -> torch.Tensor:
    devices = {tensor.device for tensor in tensors_of(batch)}
    try:
        return step.try_out(batch)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if "grad can be implicitly created only for scalar outputs" in reason:
            raise ConfigError(
                "a loss must be a scalar: the sum over a batch",
                got="a tensor of several numbers",
                fix='reduction="sum", or .sum()',
            ) from None
        if "does not require grad" in reason:
            raise ConfigError(
                "a loss must depend on the model's parameters",
                got="one without a gradient (detached, or computed under no_grad)",
            ) from None
        if "same device" in reason:
            raise DataError(
                f"a batch must come to the model on {step.device}",
                got=f"tensors on {', '.join(sorted(map(str, devices)))}, some of which stay there "
                f"({reason})",
                fix="tensors in tuples, lists, dicts or dataclasses, which are moved",
            ) from None
        raise


def _warn_of_a_mean(step: Step, batch: Any, count: int) -> None:
    """A mean would be divided by the count twice; comparing a batch with its halves finds it."""
    if step.task.accumulate is not None:
        return
    try:
        found = _loss_of_halves(step, batch, count)
    except Exception:  # of whatever kind: the user's code need not work for half a batch
        return
    if found is None:
        return
    whole, both, mean = found
    if looks_like_a_mean(whole, both, mean):
        _log.warning(
            "the loss seems to be a mean: %.4g for a batch, %.4g and %.4g for its halves; it must "
            'be a sum (reduction="sum"), or each update is %d times too small',
            whole,
            *both,
            count,
        )


def looks_like_a_mean(whole: float, both: Sequence[float], mean: float) -> bool:
    """Whether the number of a batch is the mean of its halves' numbers, and not their sum."""
    return abs(whole - mean) <= 1e-3 * abs(whole) < abs(whole - sum(both))


@torch.no_grad()
def _loss_of_halves(
    step: Step, batch: Any, count: int
) -> tuple[float, tuple[float, float], float] | None:
    """The loss of a batch, of its halves, and their mean; None if it cannot be cut in two."""
    parts = halves(batch)
    if parts is None:
        return None
    counts = [step.task.count(part) for part in parts]
    if sum(counts) != count or not all(counts):
        return None
    with evaluating(step.model):
        whole, one, other = (step.loss(part).item() for part in (batch, *parts))
    return whole, (one, other), (counts[0] * one + counts[1] * other) / count


def _described(batch: Any) -> str:
    """Shapes, and how many numbers are not finite."""
    tensors = tensors_of(batch)
    shapes = ", ".join(f"{tuple(tensor.shape)}" for tensor in tensors)
    bad = sum(int((~tensor.isfinite()).sum()) for tensor in tensors if tensor.is_floating_point())
    return f"shapes {shapes}; {bad} numbers in it are not finite"
