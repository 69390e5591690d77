"""A snapshot of a run for live views, as plain data. `Follower` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from metronorm.runs.curves import Curve
from metronorm.runs.events import Event


@dataclass(frozen=True)
class Rank:
    """One rank of the newest attempt. Medians and rates are over its last `WINDOW` ticks.

    `tick` and `time_ns` are of its newest tick. `arrival_ns` is the median time from the beginning
    of a tick until the rank enters the all-reduce. `per_second` is of the `unit` of the snapshot.
    """

    rank: int
    tick: int
    time_ns: int
    tick_ns: float
    ticks_per_second: float | None
    per_second: float | None
    arrival_ns: float | None
    memory_bytes: float | None


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment.

    Phases, rates and the median tick time are over the last `WINDOW` ticks of each rank of the
    newest attempt.

    Attributes:
        name: the name of the run.
        directory: its directory.
        time_ns: when the snapshot was made, since 1970.
        state: one of the states of `metronorm.runs.state`.
        attempts: the number of attempts.
        total: `ticks` of the newest attempt's config, if it is a whole number.
        tick: the newest tick of any rank.
        tick_time_ns: when a tick ended last, since 1970.
        median_tick_ns: the median over the ranks of their median tick times.
        ticks_per_second: the mean over the ranks.
        unit: what ticks count, such as tokens; None: nothing that is known.
        per_second: how much of the unit, summed over the ranks.
        seconds_left: an estimate, while the run is running and `total` is known.
        phases: the share of each phase of the time of all ranks.
        latest: the newest value of each metric.
        curves: the curve of each metric, with at most `POINTS` entries.
        tick_ns: the curve of the tick time.
        resources: the newest value of each resource of the lowest rank.
        rates: the change per second of those resources that only grow.
        ranks: the ranks of the newest attempt.
        events: the newest events of any attempt, the newest first.
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
    unit: str | None = None
    per_second: float | None = None
    seconds_left: float | None = None
    phases: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    tick_ns: Curve | None = None
    resources: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    ranks: tuple[Rank, ...] = ()
    events: tuple[Event, ...] = ()
