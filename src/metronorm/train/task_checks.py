"""What a task declares, looked at before anything is made of it or trained with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from metronorm.clock.column_names import Names
from metronorm.errors import ConfigError, DataError
from metronorm.scalars import is_integer
from metronorm.train.batches import halves, tensors_of
from metronorm.train.evaluate import evaluating, sum_and_divisor
from metronorm.train.first_beat import looks_like_a_mean
from metronorm.train.measuring import batches_of
from metronorm.train.task import Hook

if TYPE_CHECKING:
    from metronorm.train.step import Step
    from metronorm.train.task import Task

_log = logging.getLogger("metronorm")

_OWN_METRICS = ("loss", "learning_rate", "gradient_norm")
_MEASURED = ("validation_", "test_")
_FUNCTIONS = ("loss", "count", "measure", "groups", "save", "accumulate")


def check_task(task: Task) -> None:
    """Look at what a task is made of, before anything is made of it.

    Raises:
        ConfigError: a model instead of a function that makes one, batches for the evaluation that
            can be read once only, a unit that is the name of another metric, or anything else of
            another kind than it must be.
    """
    if isinstance(task.model, nn.Module) or not callable(task.model):
        raise ConfigError(
            "a task's model must be a function that makes the model",
            got=f"a {type(task.model).__name__}",
            fix="model=lambda: MyModel(...)",
        )
    for name, batches in (("validation", task.validation), ("test", task.test)):
        if batches is None or callable(batches):
            continue
        if not hasattr(batches, "__iter__") or hasattr(batches, "__next__"):
            raise ConfigError(
                f"a task's {name} must be batches that can be iterated again, or a function that "
                "makes them",
                got=f"a {type(batches).__name__}",
                fix=f"{name}=lambda: ...",
            )
    for name in _FUNCTIONS:
        function = getattr(task, name)
        if not callable(function) and (function is not None or name in ("loss", "count")):
            raise ConfigError(
                f"a task's {name} must be a function", got=f"a {type(function).__name__}"
            )
    if not isinstance(task.hooks, Sequence) or not all(isinstance(h, Hook) for h in task.hooks):
        raise ConfigError(
            "a task's hooks must be a list of Hook", got=repr(task.hooks), fix="[Hook(100, run)]"
        )
    for hook in task.hooks:
        if not is_integer(hook.every) or not callable(hook.run):
            raise ConfigError(
                "a hook must have a whole number of ticks and a function", got=repr(hook)
            )
    if not isinstance(task.data_id, str | None):
        raise ConfigError(
            "a task's data_id must be text", got=repr(task.data_id), fix=f'"{task.data_id}"'
        )
    unit = task.unit.lower() if isinstance(task.unit, str) else "loss"
    if unit in _OWN_METRICS or unit.startswith(_MEASURED):
        raise ConfigError(
            f"unit must be a name of its own, not one of {', '.join(_OWN_METRICS)}, and not of a "
            f"measure ({'..., '.join(_MEASURED)}...)",
            got=repr(task.unit),
            fix="images",
        )
    Names().check([task.unit])


def check_state(model: nn.Module) -> None:
    """Look whether a checkpoint can keep the model.

    Raises:
        ConfigError: its state is not of tensors only, or of complex128, which safetensors lacks.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                "a model's state_dict must hold tensors only",
                got=f"{name}, a {type(value).__name__}",
                fix="register_buffer of a tensor instead of get_extra_state",
            )
        if value.dtype == torch.complex128:
            raise ConfigError(
                "a checkpoint must be able to keep each tensor of a model",
                got=f"{name} in complex128",
                fix="complex64, or the real and the imaginary part as two tensors",
            )


def warn_of_single_examples(task: Task, batch: Any) -> None:
    """Warn where an iterable gives examples; a DataLoader makes batches of them."""
    single = task.count(batch) == 1 and any(not tensor.dim() for tensor in tensors_of(batch))
    if isinstance(task.batches, Dataset) or (single and not isinstance(task.batches, DataLoader)):
        _log.warning(
            "each example of this %s is taken for a batch; try: DataLoader(..., batch_size=N), or "
            "batch_size=None if it gives whole batches",
            type(task.batches).__name__,
        )


@torch.no_grad()
def check_measures(step: Step) -> None:
    """Measure one batch of each set, and look whether there is the measure that decides the best.

    Raises:
        ConfigError: there is not, or what is measured are no sums; a function that makes the same
            iterator again.
        DataError: there is nothing to evaluate on.
    """
    config, validation = step.config, step.task.validation
    if step.task.test is not None:  # it is read once, at the end: too late to find a mistake
        _sums_of_first(step, step.task.test, "test")
    if validation is None:
        if config.best != "loss":
            _log.warning("best=%r needs a validation set, and this task has none", config.best)
        return
    sums = _sums_of_first(step, validation, "validation")
    averages = {"_ema": config.ema > 0, "_last": config.average_last > 0}
    names = [*sums, *(f"{name}{kind}" for kind, kept in averages.items() if kept for name in sums)]
    Names().check(f"validation_{name}" for name in names)
    if config.best not in names:
        raise ConfigError(
            "best must be one of the measures",
            got=repr(config.best),
            fix=f"one of {', '.join(names)}",
        )


def _sums_of_first(step: Step, source: Any, name: str) -> dict[str, Any]:
    """What is measured of the first batch; a warning where it seems to be a mean."""
    batch = _first_to_evaluate(source, name)
    with evaluating(step.model):
        sums = step.sums(batch)
        for measure, value in sums.items():
            sum_and_divisor(measure, value, 1)
        parts = halves(batch)
        counts = [step.task.count(part) for part in (batch, *parts)] if parts else [0, 0, 0]
        if parts and all(counts) and counts[0] == sum(counts[1:]):
            with contextlib.suppress(Exception):  # the user's code need not work for half a batch
                _warn_of_means(sums, [step.sums(part) for part in parts], counts)
    return sums


def _warn_of_means(
    sums: dict[str, Any], of_halves: list[dict[str, Any]], counts: list[int]
) -> None:
    for measure, value in sums.items():
        if isinstance(value, tuple):  # with a divisor of its own
            continue
        whole, *both = (float(each[measure]) for each in (sums, *of_halves))
        mean = (counts[1] * both[0] + counts[2] * both[1]) / counts[0]
        if looks_like_a_mean(whole, both, mean):
            _log.warning(
                "the measure %r seems to be a mean: %.4g for a batch, %.4g and %.4g for its "
                "halves; it must be a sum, which is divided once, after all batches",
                measure,
                whole,
                *both,
            )


def _first_to_evaluate(source: Any, name: str) -> Any:
    batches = batches_of(source, name)
    if hasattr(batches, "__next__") and batches is batches_of(source, name):
        raise ConfigError(
            f"a task's {name} must make its batches anew each time",
            got=f"the same {type(batches).__name__} again",
            fix=f"{name}=lambda: ..., which makes it",
        )
    for batch in batches:
        return batch
    raise DataError(
        "an evaluation must have something to count",
        got=f"no batches in the {type(batches).__name__}",
        fix=f"more data for {name}",
    )
