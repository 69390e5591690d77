"""Values on their way into a run: which attempt and which tick each of them belongs to.

A step is a tick, and its values are one record. Values come in stretches, in the order in which
they were logged: an event file, the rows of a process. A stretch in which a metric begins behind
its newest step so far is a new attempt, as after a crash. So is, within a stretch, what follows
once a metric is logged again for a step that it has, behind its newest one; late values for steps
that lack them are just late.

One kind of going back is no restart: of metrics on two axes (ticks and epochs), the one that counts
slowly goes on at a low step. A new attempt there would take what the others did since that step for
undone, so such a stretch stays in its attempt, and what it logs again takes the place of the old.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metronorm.clock.column_names import MOST
from metronorm.integrations.names import MetricNames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Value = tuple[int, int, str, float]  # step, nanoseconds since 1970, tag, value


@dataclass
class Event:
    """Something that happened at a time (nanoseconds since 1970)."""

    name: str
    time_ns: int
    fields: dict[str, Any]


@dataclass(slots=True)
class Row:
    """The record of one step; its time is that of the value that came first."""

    time_ns: int
    metrics: dict[str, float]


@dataclass
class History:
    """Attempts, oldest first; each has its rows by step."""

    attempts: list[dict[int, Row]] = field(default_factory=list)
    replaced: int = 0
    purged: int = 0
    left_out: set[str] = field(default_factory=set)
    mixed: bool = False
    names: MetricNames = field(default_factory=MetricNames)
    _last: dict[str, int] = field(default_factory=dict)  # of the newest attempt, by metric

    def extend(
        self, values: Iterable[Value], *, beside: bool = False, purge: int | None = None
    ) -> None:
        """Add a stretch.

        Args:
            values: in the order in which they were logged.
            beside: it was logged at the same time as the one before, and goes on with it.
            purge: its writer has taken back what was logged before from this step on.
        """
        first = True
        for part in _parts(values):
            restarted = first and purge is not None and self._purge(purge, part)
            if not self.attempts or restarted or (not (first and beside) and self._is_again(part)):
                self.attempts.append({})
                self._last = {}
            self._put(part)
            first = False
        if first and purge is not None:
            self._purge(purge, [])

    def _purge(self, begin: int, values: list[Value]) -> bool:
        """Leave out what no attempt takes the place of; whether there is something to go on from.

        What lies behind the first step of the new values stays: that attempt undoes it.
        """
        end = min((step for step, *_ in values), default=None)
        for rows in self.attempts:
            for step in [step for step in rows if begin <= step and (end is None or step < end)]:
                self.purged += len(rows.pop(step).metrics)
        self.attempts = [rows for rows in self.attempts if rows]
        return bool(self.attempts)

    def _is_again(self, values: list[Value]) -> bool:
        first: dict[str, int] = {}
        for step, _, tag, _ in values:
            first.setdefault(self.names[tag], step)
        if all(step >= self._last.get(name, step) for name, step in first.items()):
            return False
        start = min(first.values())
        undone = dict.fromkeys(first, 0)
        for step, row in self.attempts[-1].items():
            if step >= start:
                for name in row.metrics:
                    if step < first.get(name, start):
                        undone[name] += 1
        # one value may be that of the step at which the checkpoint was written
        if max(undone.values()) > 1:
            self.mixed = True
            return False
        return True

    def _put(self, values: list[Value]) -> None:
        rows, last, names = self.attempts[-1], self._last, self.names
        for step, time_ns, tag, value in values:
            if len(names) >= MOST and tag not in names:
                self.left_out.add(tag)
                continue
            name = names[tag]
            row = rows.get(step)
            if row is None:
                rows[step] = Row(time_ns, {name: value})
            else:
                self.replaced += name in row.metrics
                row.metrics[name] = value
            if step > last.get(name, step - 1):
                last[name] = step

    def ticks(self, attempt: int) -> Iterator[tuple[int, int, int, dict[str, float]]]:
        """Step, time, nanoseconds since the row before, and metrics of an attempt's rows."""
        rows = self.attempts[attempt]
        before = None
        for step in sorted(rows):
            row = rows[step]
            since = 0 if before is None else max(row.time_ns - before, 0)
            before = row.time_ns
            yield step, row.time_ns, since, row.metrics

    def times(self, attempt: int) -> tuple[int, int]:
        """Times of an attempt's earliest and latest row."""
        times = [row.time_ns for row in self.attempts[attempt].values()]
        return min(times), max(times)


class Places:
    """Which attempt and tick a moment falls into: the first that ends at it or later."""

    def __init__(self, history: History) -> None:
        self._places = sorted(
            (row.time_ns, attempt, step)
            for attempt, rows in enumerate(history.attempts)
            for step, row in rows.items()
        )

    def find(self, time_ns: int) -> tuple[int, int]:
        """Attempt and tick; after the last tick: those of the last."""
        at = bisect_left(self._places, (time_ns,))
        _, attempt, step = self._places[min(at, len(self._places) - 1)]
        return attempt, step


def _parts(values: Iterable[Value]) -> Iterator[list[Value]]:
    """Cut a stretch where a metric is logged again for a step behind its newest one."""
    part: list[Value] = []
    seen: dict[str, set[int]] = {}
    last: dict[str, int] = {}
    for value in values:
        step, _, tag, _ = value
        steps = seen.get(tag)
        if steps is None:
            steps = seen[tag] = set()
            last[tag] = step
        if step > last[tag]:
            last[tag] = step
        elif step < last[tag] and step in steps:
            yield part
            part, seen, last = [], {tag: {step}}, {tag: step}
            part.append(value)
            continue
        steps.add(step)
        part.append(value)
    if part:
        yield part
