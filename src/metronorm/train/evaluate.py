"""Evaluation: sums over all batches, divided once at the end. Never a mean of means."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch

from metronorm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import nn

    from metronorm.train.task import Batch
    from metronorm.train.world import World


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    sums: Callable[[Batch], dict[str, Any]],
    count: Callable[[Batch], int],
    world: World | None = None,
) -> dict[str, float]:
    """The measures over all batches: the sum of each, divided by its count.

    The model is in evaluation mode meanwhile. The host waits for the device once, at the end.

    Args:
        model: put into evaluation mode, and back into its own mode at the end.
        batches: read once; with a world, what `of_rank` gives of them.
        sums: of a batch, by name; a pair is a sum and its own divisor.
        count: of a batch: the divisor of all other sums.
        world: the ranks, each of which has other batches; None: there is one.

    Raises:
        DataError: there are no batches, or what they count is zero.
        ConfigError: a measure that is no number.
    """
    read = 0
    totals: dict[str, Any] = {}
    divisors: dict[str, Any] = {}
    with evaluating(model):
        for batch in batches:
            read += 1
            if isinstance(batch, Repeated):
                sums(batch.batch)
                continue
            number = count(batch)
            for name, value in sums(batch).items():
                total, divisor = sum_and_divisor(name, value, number)
                totals[name] = totals.get(name, 0.0) + total
                divisors[name] = divisors.get(name, 0.0) + divisor
    if world is not None and world.size > 1:
        totals, divisors = _added(totals, divisors, world)
    uncounted = [name for name, divisor in divisors.items() if not float(divisor)]
    if not totals or uncounted:
        raise DataError(
            "an evaluation must have something to count",
            got=f"a count of 0 for {', '.join(uncounted)} in {read:,} batches"
            if uncounted
            else f"no measure of {read:,} batches"
            if read
            else "no batches",
            fix="more data for validation" if not read or uncounted else None,
        )
    return {name: float(total) / float(divisors[name]) for name, total in totals.items()}


class Repeated(NamedTuple):
    """A batch that another rank measures: run, as some models need all ranks, and not counted."""

    batch: Batch


def of_rank(batches: Iterable[Batch], world: World) -> Iterator[Batch]:
    """Every `world.size`-th batch, and on every rank as many: the last one may be `Repeated`."""
    mine = first = None
    number = -1
    for number, batch in enumerate(batches):
        place = number % world.size
        first = batch if place == 0 else first
        mine = batch if place == world.rank else mine
        if place == world.size - 1:
            yield mine
            mine = None
    if (number + 1) % world.size:
        yield Repeated(first) if number % world.size < world.rank else mine


def _added(
    totals: dict[str, Any], divisors: dict[str, Any], world: World
) -> tuple[dict[str, float], dict[str, float]]:
    """The sums over all ranks, of which some may not have measured everything."""
    known = [msgspec.json.decode(each) for each in world.gather(msgspec.json.encode(list(totals)))]
    names = list(dict.fromkeys(name for each in known for name in each))
    added = [
        world.sums([float(values.get(name, 0)) for name in names]) for values in (totals, divisors)
    ]
    sums, counts = (dict(zip(names, values, strict=True)) for values in added)
    return sums, counts


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has the mode it had, also those that were frozen."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def sum_and_divisor(name: str, value: Any, number: Any) -> tuple[Any, Any]:
    """The two parts of a measure of a batch, in float64.

    Args:
        name: of the measure.
        value: a sum, or a pair of a sum and its own divisor.
        number: the divisor of a sum alone.

    Raises:
        ConfigError: it is neither, or is named by no text.
    """
    if not isinstance(name, str):
        raise ConfigError("a measure's name must be text", got=repr(name))
    if not isinstance(value, tuple):
        value = (value, number)
    if len(value) != 2:
        raise ConfigError(
            "a measure must be a sum, or a pair of a sum and its divisor",
            got=f"{name} is a tuple of {len(value)}",
        )
    return _wide(name, value[0]), _wide(name, value[1])


def _wide(name: str, value: Any) -> Any:
    """In float64: a sum over millions in float32 would lose what one batch adds."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ConfigError(
                "a measure must be the sum over a batch",
                got=f"{name} of shape {tuple(value.shape)}",
                fix=".sum()",
            )
        if value.is_complex():
            raise ConfigError("a measure must be a real number", got=f"{name} is complex")
        wide = torch.float32 if value.device.type == "mps" else torch.float64  # which has no other
        return value.detach().reshape(()).to(wide)
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        raise ConfigError(
            "a measure must be a number", got=f"{name} is a {type(value).__name__}"
        ) from None
