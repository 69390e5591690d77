"""What a live view shows of a run, as plain data; `follower.py` fills it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metronorm.runs.curves import Curve


@dataclass(frozen=True)
class Event:
    """Something that happened, as `clock.event` put it on record."""

    name: str
    rank: int
    tick: int
    time_ns: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Rank:
    """One rank of the newest attempt; medians and rates are of its last `live.WINDOW` ticks.

    `arrival_ns` is the median time from the beginning of a tick to entering the all-reduce.
    """

    rank: int
    tick: int
    time_ns: int
    tick_ns: float
    ticks_per_second: float | None
    tokens_per_second: float | None
    arrival_ns: float | None
    memory_bytes: float | None


@dataclass(frozen=True)
class Snapshot:
    """A run at `time_ns` (since 1970).

    `state` is one of the states of `metronorm.runs.state`.
    `total` is what the config says of `ticks`. Shares of phases, rates and the median tick time
    are of the last `live.WINDOW` ticks of the newest attempt, over all ranks: `ticks_per_second` is
    their mean, `tokens_per_second` their sum. `latest` has each metric's newest value, `curves`
    its course (means of at most `curves.POINTS` stretches, what is not finite left out), `tick_ns`
    that of the tick time, `not_finite` how many values were left out. `resources` are those of the
    lowest rank, `rates` the change of the cumulative ones in a second. Events are newest first.
    """

    name: str
    directory: str
    time_ns: int
    state: str
    attempts: int
    total: int | None
    tick: int = 0
    tick_time_ns: int | None = None
    median_tick_ns: float | None = None
    ticks_per_second: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    phases: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    tick_ns: Curve | None = None
    resources: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    ranks: tuple[Rank, ...] = ()
    events: tuple[Event, ...] = ()
