"""Before the first tick: what is checked of a task, and what the user is told."""

from __future__ import annotations

import logging
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from metronorm.clock.column_names import Names
from metronorm.errors import ConfigError, DataError, DivergenceError
from metronorm.scalars import as_real, is_integer
from metronorm.train import buffers
from metronorm.train.batches import halves, same, tensors_of
from metronorm.train.checkpoint import FOLDER
from metronorm.train.checkpoint_folder import best_checkpoint, newest_checkpoint
from metronorm.train.config_changes import run_config
from metronorm.train.evaluate import evaluating, sum_and_divisor
from metronorm.train.measuring import batches_of
from metronorm.train.task import Hook

if TYPE_CHECKING:
    from metronorm.train.preparing import Preparation
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
        ConfigError: its state is not of tensors only.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                "a model's state_dict must hold tensors only",
                got=f"{name}, a {type(value).__name__}",
                fix="register_buffer of a tensor instead of get_extra_state",
            )


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


def warn_of_single_examples(task: Task, batch: Any) -> None:
    """Warn where an iterable gives examples; a DataLoader makes batches of them."""
    single = task.count(batch) == 1 and any(not tensor.dim() for tensor in tensors_of(batch))
    if isinstance(task.batches, Dataset) or (single and not isinstance(task.batches, DataLoader)):
        _log.warning(
            "each example of this %s is taken for a batch; try: DataLoader(..., batch_size=N), or "
            "batch_size=None if it gives whole batches",
            type(task.batches).__name__,
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
    close = 1e-3 * abs(whole)
    if abs(whole - mean) <= close < abs(whole - sum(both)):
        _log.warning(
            "the loss seems to be a mean: %.4g for a batch, %.4g and %.4g for its halves; it must "
            'be a sum (reduction="sum"), or each update is %d times too small',
            whole,
            *both,
            count,
        )


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


@torch.no_grad()
def check_measures(step: Step) -> None:
    """Measure one batch, and look whether there is the measure that decides the best.

    Raises:
        ConfigError: there is not, or what is measured are no sums; a function that makes the same
            iterator again.
        DataError: there is nothing to evaluate on.
    """
    config, validation = step.config, step.task.validation
    if validation is None:
        if config.best != "loss":
            _log.warning("best=%r needs a validation set, and this task has none", config.best)
        return
    batch = _first_to_evaluate(validation)
    with evaluating(step.model):
        sums = step.sums(batch)
    for name, value in sums.items():
        sum_and_divisor(name, value, 1)
    averages = {"_ema": config.ema > 0, "_last": config.average_last > 0}
    names = [*sums, *(f"{name}{kind}" for kind, kept in averages.items() if kept for name in sums)]
    Names().check(f"validation_{name}" for name in names)
    if config.best not in names:
        raise ConfigError(
            "best must be one of the measures",
            got=repr(config.best),
            fix=f"one of {', '.join(names)}",
        )


def _first_to_evaluate(validation: Any) -> Any:
    batches = batches_of(validation, "validation")
    if hasattr(batches, "__next__") and batches is batches_of(validation, "validation"):
        raise ConfigError(
            "a task's validation must make its batches anew for each evaluation",
            got=f"the same {type(batches).__name__} again",
            fix="validation=lambda: ..., which makes it",
        )
    for batch in batches:
        return batch
    raise DataError(
        "an evaluation must have something to count",
        got=f"no batches in the {type(batches).__name__}",
        fix="more data for validation",
    )


def initial_weights(model: nn.Module, run: Path) -> None:
    """Give the model the best weights of a run.

    Raises:
        RunError: there is no run.
        CheckpointError: there is no whole checkpoint, or one of another model.
    """
    run_config(run)  # is it a run?
    folder = run / FOLDER
    found = best_checkpoint(folder) or newest_checkpoint(folder)
    found.load_model(model)


def say_what_starts(ready: Preparation, directory: Path) -> None:
    """Print to standard error what is about to run, before the progress bar."""
    step, config = ready.step, ready.step.config
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    size, beats = ready.beats.beats_per_epoch(), config.ticks * config.micro_batches
    passes = f", {beats / size:,.1f} passes over the data" if size else ""
    count = step.task.count(ready.trial) * config.micro_batches
    name = shlex.quote(_shown(directory))
    lines = [
        f"run        {name}",
        f"device     {step.device}, {step.precision}, allocator {ready.allocator}",
        f"model      {parameters:,} parameters, {config.optimizer.name}",
        f"training   {config.ticks:,} ticks of {count:,} {step.task.unit}, "
        f"{config.ticks * count:,} in all{passes}",
        f"watch it   metronorm watch {name}",
    ]
    if ready.ticks_done >= config.ticks:
        lines.append("done       all ticks; --ticks N makes more")
    tqdm.write("\n".join(lines), file=sys.stderr)


def _shown(directory: Path) -> str:
    try:
        return str(directory.relative_to(Path.cwd()))
    except ValueError:
        return str(directory)


def _described(batch: Any) -> str:
    """Shapes, and how many numbers are not finite."""
    tensors = tensors_of(batch)
    shapes = ", ".join(f"{tuple(tensor.shape)}" for tensor in tensors)
    bad = sum(int((~tensor.isfinite()).sum()) for tensor in tensors if tensor.is_floating_point())
    return f"shapes {shapes}; {bad} numbers in it are not finite"
