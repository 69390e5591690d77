"""The newest records of an attempt, and the figures of a live view that they give."""

from __future__ import annotations

import statistics
from collections import deque
from typing import TYPE_CHECKING

from metronorm.runs.following.snapshot import Rank
from metronorm.runs.state import AttemptEvents
from metronorm.runs.units import units_of

if TYPE_CHECKING:
    from metronorm.runs.events import Event
    from metronorm.store.schema import TickRecord

WINDOW = 100
EVENTS = 50
RESOURCE_WINDOW_NS = 30_000_000_000
# the ends of the names of resources that only grow
COUNTED = (
    "processor_ns",
    "energy_joules",
    "disk_read_bytes",
    "disk_written_bytes",
    "network_received_bytes",
    "network_sent_bytes",
)


class Recent:
    """The last ticks and samples of all ranks of an attempt, and the last events of any attempt."""

    def __init__(self) -> None:
        self.ticks: dict[int, deque[TickRecord]] = {}
        self._samples: dict[int, deque[tuple[int, dict[str, float]]]] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self.attempt_events = AttemptEvents()

    def add_tick(self, rank: int, record: TickRecord) -> None:
        """Add a tick of the attempt."""
        self.ticks.setdefault(rank, deque(maxlen=WINDOW)).append(record)

    def amend_tick(self, rank: int, found: TickRecord) -> None:
        """Add phases and metrics to a tick that were logged after it ended."""
        for tick in reversed(self.ticks.get(rank, ())):
            if tick.tick == found.tick:
                tick.metrics |= found.metrics
                for name, ns in found.phases.items():
                    tick.phases[name] = tick.phases.get(name, 0) + ns
                    tick.wall_ns += ns
                break

    def add_sample(self, rank: int, time_ns: int, values: dict[str, float]) -> None:
        """Add a sample of the machine of a rank; `time_ns` is since 1970."""
        samples = self._samples.setdefault(rank, deque())
        samples.append((time_ns, values))
        while samples[0][0] < time_ns - RESOURCE_WINDOW_NS:
            samples.popleft()

    def add_event(self, event: Event) -> None:
        """Add an event of any attempt."""
        self._events.append(event)

    def events(self) -> tuple[Event, ...]:
        """The last events, the newest first."""
        newest = reversed(self._events)  # of equal times, the event that was added last comes first
        return tuple(sorted(newest, key=lambda event: event.time_ns, reverse=True))

    def ranks(self) -> tuple[Rank, ...]:
        """The ranks that have ticks, in order."""
        unit = self.unit()
        return tuple(self._rank(rank, unit) for rank in sorted(self.ticks))

    def _rank(self, rank: int, unit: str | None) -> Rank:
        ticks = self.ticks[rank]
        wall_ns = sum(tick.wall_ns for tick in ticks)
        counts = [float(tick.metrics[unit]) for tick in ticks if unit in tick.metrics]
        arrivals = [tick.arrival_ns for tick in ticks if tick.arrival_ns is not None]
        return Rank(
            rank=rank,
            tick=ticks[-1].tick,
            time_ns=ticks[-1].time_ns,
            tick_ns=statistics.median(tick.wall_ns for tick in ticks),
            ticks_per_second=len(ticks) / wall_ns * 1e9 if wall_ns else None,
            per_second=sum(counts) / wall_ns * 1e9 if counts and wall_ns else None,
            arrival_ns=statistics.median(arrivals) if arrivals else None,
            memory_bytes=self.resources(rank).get("memory_bytes"),
        )

    def unit(self) -> str | None:
        """What the ticks count; None if nothing that is known."""
        every = (tick.metrics for ticks in self.ticks.values() for tick in ticks)
        return next(iter(units_of(set().union(*every))), None)

    def phases(self) -> dict[str, float]:
        """The share of each phase of the time of all phases, over all ranks."""
        spent: dict[str, int] = {}
        for ticks in self.ticks.values():
            for tick in ticks:
                for name, ns in tick.phases.items():
                    spent[name] = spent.get(name, 0) + ns
        whole = sum(spent.values())
        return {name: ns / whole for name, ns in spent.items() if ns}

    def first_rank(self) -> int:
        """The lowest rank with samples of its machine; 0 if there is none."""
        return min(self._samples, default=0)

    def resources(self, rank: int) -> dict[str, float]:
        """The newest value of each resource of a rank."""
        newest: dict[str, float] = {}
        for _, values in self._samples.get(rank, ()):
            newest |= values
        return newest

    def rates(self, rank: int) -> dict[str, float]:
        """The growth per second of each resource of a rank that only grows."""
        found = {}
        for name in self.resources(rank):
            if not name.endswith(COUNTED):
                continue
            known = [(at, values[name]) for at, values in self._samples[rank] if name in values]
            (begin_ns, low), (end_ns, high) = known[0], known[-1]
            if end_ns > begin_ns and high >= low:
                found[name] = (high - low) / (end_ns - begin_ns) * 1e9
        return found
