"""A training of so many minutes: the number of its ticks is planned, and planned anew.

| at the end of tick | the number of ticks is to be |
| --- | --- |
| 0, before the first one | what the time of a trial beat allows |
| 2, 8, and `SHARES` of the plan | the ticks done, and what the rest of the time allows |
| one for which a plan is on record | that of the record |

The rest of the time allows as many ticks as fit at the mean time of those so far, with their
evaluations and checkpoints. What the longest tick took beyond the mean is kept back, as the last
tick has an evaluation too. The first tick of an attempt counts to the time, but not to the mean.

The learning rate depends on the planned number of ticks. So each plan is in `plans.json`, in the
run's directory, before it is used, and a run that goes on takes the plans of that file again: it
makes the same ticks, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Annotated

import msgspec

from metronorm.errors import ConfigError, RunError
from metronorm.files import read_regular, write_atomic
from metronorm.text import short_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metronorm.train.world import World

FILE = "plans.json"
FIRST = (2, 8)
SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16)

_log = logging.getLogger("metronorm")

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Plan(msgspec.Struct, frozen=True):
    """At the end of `tick`, after `seconds` of training, the run was to have `ticks` ticks."""

    tick: _Count
    ticks: _Count
    seconds: float


def check_time(minutes: float, tick_seconds: float) -> None:
    """Raise ConfigError if the time is too short for one tick."""
    if tick_seconds > minutes * 60:
        raise ConfigError(
            "minutes must be enough for one tick",
            got=f"{minutes:g}, where a tick takes about {short_time(tick_seconds * 1e9)}",
            fix="more minutes, or smaller ticks (--batch-size, --micro-batches)",
        )


class TimeBudget:
    """The plans of a run of so many minutes. Of several processes the first one decides.

    Args:
        minutes: for all attempts together; what counts is the time of the ticks that led to the
            final parameters.
        directory: of the run.
        world: the processes that train together.
        done: ticks that the checkpoint has.
        seconds: of training that these took.
        again: take the plans on record; False: only those up to `done`, and plan anew.
        now: the time in seconds, from any start.

    Attributes:
        seconds: of training, up to the end of the newest tick.

    Raises:
        RunError: the file of the plans is damaged.
    """

    def __init__(
        self,
        minutes: float,
        directory: Path,
        world: World,
        *,
        done: int = 0,
        seconds: float = 0.0,
        again: bool = True,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._budget, self._world, self._now = minutes * 60, world, now
        self._file = directory / FILE
        found = world.told(lambda: _read(self._file))
        self._plans = [plan for plan in found if again or plan.tick <= done]
        self._done, self.seconds, self._again = done, seconds, again
        self._due: float = 0  # the tick after which the next plan is made
        self._began = self._ended = 0.0  # this attempt, less `seconds`; the newest tick
        self._first_ended: float | None = None  # the first tick of this attempt
        self._longest = 0.0  # of the later ones

    def begin(self, tick_seconds: float) -> int:
        """The planned number of ticks before the next tick; the time counts from here on.

        Args:
            tick_seconds: what a tick takes, as far as is known before the first one.
        """
        self._ended = self._now()
        self._began = self._ended - self.seconds
        past = [plan for plan in self._plans if plan.tick <= self._done]
        if past and self._again:
            return self._taken(past[-1])
        mean = self.seconds / self._done if self._done and self.seconds else tick_seconds
        return self._planned(self._done, mean, least=self._done) or self._done + 1

    def end_tick(self, tick: int) -> int | None:
        """Count the time of a tick; the new number of ticks, if it is planned anew.

        Args:
            tick: the one that ends, before the last one of the plan.
        """
        now = self._now()
        took, self._ended, self.seconds = now - self._ended, now, now - self._began
        if self._first_ended is None:
            self._first_ended = now
        else:
            self._longest = max(self._longest, took)
        for plan in self._plans:
            if plan.tick == tick:
                return self._taken(plan)
        later = tick - self._done - 1  # ticks of this attempt after its first one
        if tick < self._due or not later or any(plan.tick > tick for plan in self._plans):
            return None
        return self._planned(tick, (now - self._first_ended) / later, least=tick + 1)

    def _planned(self, tick: int, mean: float, *, least: int) -> int | None:
        """Plan on the first process, and write the plan down; None: that failed."""
        plan = self._world.told(lambda: self._plan(tick, mean, least))
        return None if plan is None else self._taken(plan)

    def _plan(self, tick: int, mean: float, least: int) -> Plan | None:
        rest = self._budget - self.seconds - max(0.0, self._longest - mean)
        plan = Plan(tick, max(least, tick + math.floor(rest / mean)), round(self.seconds, 3))
        plans = [each for each in self._plans if each.tick < tick] + [plan]
        try:
            write_atomic(self._file, msgspec.json.encode(plans))
        except OSError as error:
            _log.warning("the plan stays as it is: %s: %s", self._file, error.strerror or error)
            return None
        return plan

    def _taken(self, plan: Plan) -> int:
        self._plans = [each for each in self._plans if each.tick != plan.tick] + [plan]
        self._plans.sort(key=lambda each: each.tick)
        due = [*FIRST, *(math.ceil(share * plan.ticks) for share in SHARES)]
        self._due = min((tick for tick in due if tick > plan.tick), default=math.inf)
        return plan.ticks


def _read(path: Path) -> list[Plan]:
    try:
        return msgspec.json.decode(read_regular(path), type=list[Plan])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            "the plans of a run must be readable",
            got=f"{path}: {error}",
            fix="remove the file: the run then goes on with a new plan",
        ) from None
