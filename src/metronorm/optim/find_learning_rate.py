"""The learning rate range test: raise the learning rate every tick, until the loss diverges.

    search = find_learning_rate(model, optimizer, windows(batches, 4, count), summed_loss)
    print(search.suggestion, search.reasons)
    search.figure().show()

Smith, 2017, arXiv:1506.01186. Here the rates grow exponentially, and a step is one window.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed

from metronorm.errors import ConfigError, DataError, DivergenceError
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.blocks import sum_dtype
from metronorm.optim.learning_rate_search import LearningRateSearch, diverged, suggest
from metronorm.optim.restoring import restoring
from metronorm.scalars import as_integer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from metronorm.optim.windows import Window

LEAST_TICKS = 10
SMOOTHED_SHARE = 1 / 20  # of the ticks: how far back the moving average reaches


def find_learning_rate(
    model: nn.Module,
    optimizer: Optimizer,
    windows: Iterable[Window[Any]],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    ticks: int = 100,
) -> LearningRateSearch:
    """Train for `ticks` windows with rising learning rates, undo it, and suggest a learning rate.

    Afterwards parameters, buffers, gradients, the optimizer and torch's random state are bitwise
    what they were, also after an exception. That needs one more copy of them. Not undone are the
    windows that were taken from `windows`, and what `loss` changes elsewhere.

    A search ends early when the loss diverges. The model stays in its mode (`train()` or `eval()`).
    If the training loop does more than backward() and step(), such as clipping, the optimizer or
    its hooks should do that here; a GradScaler cannot take part. Where torch.distributed is
    initialized, all ranks call this, and the losses are averaged over them.

    Args:
        model: the model to train, in its present state.
        optimizer: any of torch's interface with a `step()` that needs no closure. Its param groups
            keep the ratios of their learning rates.
        windows: from `metronorm.optim.windows`.
        loss: the *summed* loss of a batch: `loss(model, batch)`. NumPy arrays in a batch, alone or
            in tuples, lists and dicts, are tensors there.
        lowest: the learning rate of the first param group at the first tick.
        highest: the learning rate of the first param group at the last tick.
        ticks: how many learning rates to try, evenly spaced on a log scale.

    Returns:
        The losses, a suggestion and the reasons for it.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: fewer than 10 windows.
        DivergenceError: the loss is not finite before the first step.
    """
    _check(optimizer, lowest, highest, ticks)
    rates = [lowest * (highest / lowest) ** (tick / (ticks - 1)) for tick in range(ticks)]
    with restoring(model, optimizer):
        return _search(model, optimizer, windows, loss, rates)


def _check(optimizer: Optimizer, lowest: float, highest: float, ticks: int) -> None:
    if not 0 < lowest < highest < math.inf:
        raise ConfigError(
            "learning rates must rise from above 0", got=f"lowest={lowest!r}, highest={highest!r}"
        )
    number = as_integer(ticks)
    if number is None or number < LEAST_TICKS:
        raise ConfigError(f"ticks must be at least {LEAST_TICKS}", got=repr(ticks))
    if not optimizer.param_groups[0]["lr"] > 0:
        raise ConfigError(
            "the first param group must have a learning rate above 0: the other groups keep their "
            "ratio to it",
            got=repr(optimizer.param_groups[0]["lr"]),
            fix="lr above 0, and no warmup of a scheduler before the search",
        )


def _search(
    model: nn.Module,
    optimizer: Optimizer,
    windows: Iterable[Window[Any]],
    loss: Callable[[nn.Module, Any], Tensor],
    rates: list[float],
) -> LearningRateSearch:
    groups = optimizer.param_groups
    ratios = [float(group["lr"]) / float(groups[0]["lr"]) for group in groups]
    horizon = max(2.0, SMOOTHED_SHARE * len(rates))  # ticks
    losses: list[float] = []
    smoothed: list[float] = []
    average, stopped = 0.0, False
    for rate, window in zip(rates, windows, strict=False):
        for group, ratio in zip(groups, ratios, strict=True):
            _set_learning_rate(group, rate * ratio)
        try:
            value = _run_beats(model, optimizer, window, loss)
            stopped = not math.isfinite(value)
            if not stopped:
                losses.append(value)
                average += (value - average) / horizon
                smoothed.append(average / (1 - (1 - 1 / horizon) ** len(losses)))
                stopped = diverged(smoothed)
            if stopped:
                break
            optimizer.step()
            if isinstance(optimizer, Accumulator) and bool(optimizer.held):
                raise DivergenceError("the gradient of a tick must be finite")
        except DivergenceError:
            stopped = True
            break
    if stopped and not losses:
        raise DivergenceError("the loss must be finite before the first step of the search")
    if not stopped and len(losses) < LEAST_TICKS:
        raise DataError(
            f"a search takes at least {LEAST_TICKS} windows, one per learning rate",
            got=str(len(losses)),
            fix="more batches, or fewer of them in a window",
        )
    return suggest(rates, losses, smoothed=smoothed, stopped=stopped, horizon=horizon)


def _set_learning_rate(group: dict[str, Any], rate: float) -> None:
    lr = group["lr"]  # a tensor where the optimizer is compiled, or in a CUDA graph
    group["lr"] = torch.full_like(lr, rate) if isinstance(lr, torch.Tensor) else rate


def _run_beats(
    model: nn.Module,
    optimizer: Optimizer,
    window: Window[Any],
    loss: Callable[[nn.Module, Any], Tensor],
) -> float:
    """Accumulate the gradient of a window; returns its loss on all ranks."""
    optimizer.zero_grad()  # it leaves the sums of our optimizers alone
    ours = optimizer if isinstance(optimizer, Accumulator) else None
    total: Tensor | float = 0.0
    for batch, weight in window:
        weighted = weight * loss(model, _as_tensors(batch))
        weighted.backward()
        if ours and ours._limits.max_beat_norm is not None:
            ours.fold()
        total = total + weighted.detach().to(sum_dtype(weighted))
    if distributed.is_available() and distributed.is_initialized():
        total = torch.as_tensor(total)
        distributed.all_reduce(total)
        total /= round(window.weight * window.count)  # the number of ranks, or 1 for "sum"
    return float(total)


def _as_tensors(batch: Any) -> Any:
    """The batch with tensors instead of NumPy arrays, as a training makes of it."""
    if type(batch).__name__ == "ndarray":  # NumPy need not be there
        return torch.from_numpy(batch)
    if type(batch) in (tuple, list):
        return type(batch)(map(_as_tensors, batch))
    if type(batch) is dict:
        return {name: _as_tensors(each) for name, each in batch.items()}
    return batch
