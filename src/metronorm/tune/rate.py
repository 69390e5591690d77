"""A learning rate from a range test and a few short runs, each with its whole schedule.

No evidence was found that a range test foretells the best rate of a training, but it bounds it:
from where the loss diverges on, no rate can be the best. Below that bound a few short trainings,
each with its warm-up and its decay, are compared on the held-out data. The rates are half a decade
apart, and the search goes to the better side until both neighbours of the best are worse. The rate
is the lowest point of the parabola through these three.

All learning rates of the config are multiplied by the same factor, so the ratio between that of
Muon and that of AdamW stays.
"""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError, DivergenceError, OutOfMemoryError
from metronorm.files import scratch_directory
from metronorm.text import counted
from metronorm.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from metronorm.train.task import Task

STEP = 10**0.5  # between two rates
MOST_RUNS = 5
RUN_SHARE, TEST_SHARE = 0.02, 0.01  # of the ticks of the training
LEAST_RUN, LEAST_TEST = 10, 10  # ticks
LEAST_TICKS = 40  # of a training
REACH = 100.0  # of the range test, to both sides of the config's rate


@dataclass(frozen=True)
class FoundRate:
    """What was found.

    Attributes:
        config: with the learning rates found.
        factor: that they were multiplied by.
        bound: the factor from which the range test diverged; None: it did not.
        tried: by factor, the held-out measure after a short run; infinite where it diverged.
        ticks: that all of this took.
    """

    config: TrainConfig
    factor: float
    bound: float | None
    tried: dict[float, float]
    ticks: int

    def __str__(self) -> str:
        optimizer = self.config.optimizer
        bound = f"below {self.bound:.2g} times the config's, " if self.bound else ""
        return (
            f"learning rate {optimizer.learning_rate:.3g}: {bound}the best of "
            f"{counted(len(self.tried), 'short run')}; {self.ticks:,} ticks for "
            f"{self.config.ticks:,}"
        )


def find_rate(
    task: Callable[[Any], Task],
    config: TrainConfig,
    near: Path,
    tell: Callable[[str], object] = lambda line: None,
) -> FoundRate:
    """Find the learning rate of a training; about a tenth of its ticks are made for it.

    Args:
        task: makes the task of a config.
        config: of the training, with so many ticks.
        near: a path in the folder where the short runs lie meanwhile.
        tell: called with a line for every run.

    Raises:
        ConfigError: too few ticks, or no validation set.
        DivergenceError: no rate that was tried gave a finite loss.
    """
    if config.minutes:
        raise ConfigError(
            "a learning rate is found for a number of ticks",
            got=f"--minutes {config.minutes:g}",
            fix="--ticks",
        )
    ticks = max(LEAST_RUN, round(RUN_SHARE * config.ticks))
    test_ticks = max(LEAST_TEST, round(TEST_SHARE * config.ticks))
    if config.ticks < LEAST_TICKS:
        raise ConfigError(
            f"to find a learning rate a training must have at least {LEAST_TICKS} ticks",
            got=str(config.ticks),
            fix="--optimizer.learning-rate NUMBER",
        )
    sign = -1 if config.best_mode == "max" else 1
    bound, begun, machine = _bound(task, config, test_ticks)
    if bound is not None:
        tell(f"the range test diverges from {_rate(config, bound):.3g} on")
    made = [begun]
    with scratch_directory(near) as folder:

        def value(factor: float) -> float:
            short = _scaled(replace(config, ticks=ticks, **machine), factor)
            found = _short_run(task, short, folder / str(len(made)))
            made.append(ticks)
            said = "diverged" if math.isinf(found) else f"{config.best} {sign * found:.4f}"
            tell(f"{counted(ticks, 'tick')} at {_rate(config, factor):.3g}: {said}")
            return found

        tried = climbed(value, below=bound)
    best = lowest(tried)
    if math.isinf(tried[min(tried, key=lambda each: tried[each])]):
        raise DivergenceError(
            "a learning rate must let the loss stay finite",
            got=f"none of {', '.join(f'{_rate(config, one):.3g}' for one in sorted(tried))}",
            fix="a lower --optimizer.learning-rate to begin with",
        )
    shown = {factor: sign * each for factor, each in tried.items()}
    return FoundRate(_scaled(config, best), best, bound, shown, sum(made))


def climbed(
    value: Callable[[float], float], *, below: float | None = None, most: int = MOST_RUNS
) -> dict[float, float]:
    """Values at factors a step apart, until the neighbours of the lowest are known, or `most`.

    Args:
        value: of a factor, the lower the better.
        below: no factor may reach it.
        most: values to take.
    """
    start = 1.0 if below is None else min(1.0, below / STEP)
    tried = {0: value(start)}
    while len(tried) < most:
        best = min(tried, key=lambda place: (tried[place], place))  # of none, the lowest
        up, down = best + 1, best - 1
        may_rise = below is None or start * STEP**up < below * (1 - 1e-9)
        if up not in tried and may_rise and (down in tried or tried[best] < math.inf):
            place = up
        elif down not in tried:
            place = down
        else:
            break
        tried[place] = value(start * STEP**place)
    return {start * STEP**place: each for place, each in tried.items()}


def lowest(tried: dict[float, float]) -> float:
    """The factor at the lowest point of the parabola through the best value and its neighbours.

    The best factor itself where a neighbour is missing or infinite. Factors are a step apart.
    """
    best = min(tried, key=lambda factor: tried[factor])
    near = [
        next((each for each in tried if math.isclose(each, best * by)), None)
        for by in (1 / STEP, STEP)
    ]
    if near[0] is None or near[1] is None:
        return best
    low, middle, high = tried[near[0]], tried[best], tried[near[1]]
    bend = low - 2 * middle + high
    if not 0 < bend < math.inf:
        return best
    return float(best * STEP ** (0.5 * (low - high) / bend))


def _bound(
    task: Callable[[Any], Task], config: TrainConfig, ticks: int
) -> tuple[float | None, int, dict[str, Any]]:
    """The factor from which a range test diverges, its ticks, and what `auto` is on this machine.

    That takes longer to find out than a short run.
    """
    from metronorm.optim import find_learning_rate
    from metronorm.train.preparing import Preparation
    from metronorm.train.seeding import random_numbers_put_back

    with random_numbers_put_back(), contextlib.redirect_stderr(io.StringIO()):
        whole = _short_task(task, config)
        config = whole.config
        if whole.accumulate is not None:  # its loss is no sum over batches
            return None, 0, {}
        ready = Preparation(whole, config)
        rate = float(ready.step.optimizer.param_groups[0]["lr"])
        found = find_learning_rate(
            ready.step.model,
            ready.step.optimizer,
            ready.windows(),
            lambda model, beat: ready.step.loss(beat.batch),
            lowest=rate / REACH,
            highest=rate * REACH,
            ticks=ticks,
        )
    reached = found.diverged_at
    machine = {"precision": ready.step.precision, "allocator": ready.allocator}
    return (None if reached is None else reached / rate), len(found.losses), machine


def _short_run(task: Callable[[Any], Task], config: TrainConfig, directory: Path) -> float:
    """The held-out measure after a short run, the lower the better; infinite: it diverged."""
    from metronorm.train import train

    quiet: dict[str, Any] = {"sample_every": 0} if hasattr(config, "sample_every") else {}
    config = replace(
        config, evaluate_every=config.ticks, checkpoint_every=config.ticks, keep=1, **quiet
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            outcome = train(lambda config: _short_task(task, config), config, directory)
    except (DivergenceError, OutOfMemoryError):
        return math.inf
    if outcome.signal is not None:
        from metronorm.errors import StoppedEarly

        raise StoppedEarly(outcome.signal)
    if config.best not in outcome.measures:
        raise ConfigError(
            "a learning rate is found on held-out data",
            got=f"a task that has not measured {config.best!r}",
            fix="--optimizer.learning-rate NUMBER",
        )
    value = outcome.measures[config.best]
    return -value if config.best_mode == "max" else value


def _short_task(task: Callable[[Any], Task], config: TrainConfig) -> Task:
    """The task of a short run: it never sees the test set, and evaluates no more than it trains.

    How much it trains is told by the last batch: checks before the first tick count batches, too.
    """
    from metronorm.train.measuring import batches_of
    from metronorm.train.preparing import made

    whole, config = made(task, config)
    held_out, last = whole.validation, 0

    def count(batch: Any) -> int:
        nonlocal last
        last = whole.count(batch)
        return last

    def validation() -> Iterator[Any]:
        left = last * config.ticks * config.micro_batches
        for batch in batches_of(held_out, "validation"):
            yield batch
            left -= whole.count(batch)
            if left <= 0:
                return

    return replace(
        whole,
        count=count,
        validation=None if held_out is None else validation,
        test=None,
        config=config,
    )


def _scaled(config: TrainConfig, factor: float) -> TrainConfig:
    optimizer = config.optimizer
    return replace(
        config,
        optimizer=replace(
            optimizer,
            learning_rate=_digits(optimizer.learning_rate * factor),
            matrix_learning_rate=_digits(optimizer.matrix_learning_rate * factor),
        ),
    )


def _rate(config: TrainConfig, factor: float) -> float:
    return config.optimizer.learning_rate * factor


def _digits(value: float) -> float:
    return float(f"{value:.3g}")
