"""When a trial cannot win any more: losses of the same windows, compared tick by tick.

Two trials of a rung with the same seed, schedule and examples per tick have seen the same windows
at every tick, and are at the same place of their schedule. So their losses are paired: what is hard
in a window is hard for both, and the mean difference over a stretch of ticks has a narrow interval
(a moving-block bootstrap).

A trial that is behind in mid-run may still win, as a high learning rate is behind until it
decays. How much of a lag is made up until the end is known from the trials of the rung that have
ended: of each two, how far the worse one was behind at this place, less how far it was behind on
the held-out data at the end. A trial is stopped when the whole interval of its lag, behind the last
trial that would go on to the next rung, lies above the most that any trial has made up so far.
"""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from metronorm.runs.comparing.bootstrap import block_length, resampled_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACES = (1 / 4, 1 / 2, 3 / 4)  # of a trial, where it is looked at
STRETCH = 1 / 8  # of a trial, up to the place: the ticks that are compared
LEAST_TICKS = 10  # of a stretch
LEAST_ENDED = 6  # trials of a rung; fewer do not show how much of a lag is made up
RESAMPLES = 400


class Ended(NamedTuple):
    """A trial of a rung that has come to its end.

    Attributes:
        losses: of its ticks, from the first one on.
        value: at the end, the lower the better.
    """

    losses: Sequence[float]
    value: float


def cannot_win(
    losses: Sequence[float], ended: Sequence[Ended], *, ticks: int, going_on: int = 1
) -> bool:
    """Whether a trial would not be among the best, were it trained to its end.

    Args:
        losses: of its ticks so far.
        ended: trials of the same rung that saw the same windows and have the same schedule.
        ticks: of the whole trial.
        going_on: how many of the trials go on to the next rung; of the last rung 1, the best.
    """
    if len(ended) < LEAST_ENDED or going_on > len(ended):
        return False
    place = len(losses)
    stretch = max(LEAST_TICKS, round(STRETCH * ticks))
    if place < stretch:
        return False
    rival = sorted(ended, key=lambda each: each.value)[going_on - 1]
    lag = [one - other for one, other in zip(losses, rival.losses, strict=False)][-stretch:]
    if len(lag) < stretch or not all(map(math.isfinite, lag)):
        return False
    return lowest_mean(lag) > made_up(ended, place, stretch)


def made_up(ended: Sequence[Ended], place: int, stretch: int) -> float:
    """The most that a trial that was behind at this place has made up until its end; at least 0.

    Args:
        ended: trials.
        place: the number of ticks done there.
        stretch: over how many ticks the lag is a mean.
    """
    means = [fmean(each.losses[place - stretch : place]) for each in ended]
    most = 0.0
    for (one, at_one), (other, at_other) in itertools.permutations(
        zip(ended, means, strict=True), 2
    ):
        lag = at_one - at_other
        if lag > 0:
            most = max(most, lag - (one.value - other.value))
    return most


def lowest_mean(series: Sequence[float]) -> float:
    """The lower end of the 95 % interval of the mean of a series of neighbouring ticks."""
    sums = resampled_sums([series], block_length(series), RESAMPLES, random.Random(0))[0]
    return sorted(sums)[round(0.025 * RESAMPLES)] / len(series)
