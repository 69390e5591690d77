"""How long a whole trial is, and whether a budget allows one: a few ticks are tried out."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.text import short_time

if TYPE_CHECKING:
    from metronorm.train.config import TrainConfig
    from metronorm.tune.search import Budget
    from metronorm.tune.study import Equal
    from metronorm.tune.subjects import Subject


def with_length(subject: Subject, equal: Equal, budget: Budget) -> TrainConfig:
    """The config of whole trials: with the minutes that its ticks take, where seconds are equal.

    Args:
        subject: what is tuned.
        equal: what all trials have as much of.
        budget: of the search.

    Raises:
        ConfigError: the budget does not allow one run; or what `train` would raise before its
            first tick.
    """
    config = subject.config
    if config.minutes:
        seconds = 60 * config.minutes
    elif equal == "seconds" or budget.seconds < math.inf:
        from metronorm.planning import plan

        with contextlib.redirect_stderr(io.StringIO()):
            seconds = plan(subject.task, config).seconds
    else:
        return config
    if seconds > budget.seconds:
        raise ConfigError(
            "a budget must allow one run",
            got=f"{short_time(budget.seconds * 1e9)}, where a run takes about "
            f"{short_time(seconds * 1e9)}",
            fix="a larger --budget, or fewer --ticks",
        )
    if equal == "seconds" and not config.minutes:
        return replace(config, minutes=float(f"{seconds / 60:.3g}"))
    return config
