"""Decides which attempt and which tick each imported value belongs to.

A step is a tick, and its values are one record. Values come in stretches, in the order in which
they were logged: an event file, or the rows of a process.

| a metric | then |
| --- | --- |
| begins a stretch before its newest step | a new attempt begins, as after a crash |
| is logged again, within a stretch, for a step that it has, before its newest | the same |
| is logged for a step before its newest that has no value of it | the value is only late |
| counts slowly (epochs beside ticks) and begins a stretch at a low step | the attempt continues |

In the last case a new attempt would undo what the other metrics logged since that step. So the
stretch stays in its attempt, and a value that it logs again replaces the old one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metronorm.clock.column_names import MOST
from metronorm.integrations.names import MetricNames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Value = tuple[int, int, str, float]  # step, time in nanoseconds since 1970, tag, value


@dataclass
class Event:
    """Something that happened at a time, in nanoseconds since 1970."""

    name: str
    time_ns: int
    fields: dict[str, Any]


@dataclass(slots=True)
class Row:
    """The record of one step; its time is the time of the value that came first."""

    time_ns: int
    metrics: dict[str, float]


@dataclass
class History:
    """The values of a run.

    Attributes:
        attempts: the rows of each attempt by their step; the oldest attempt is first.
        replaced: the number of values that a later value of the same metric and step replaced.
        purged: the number of values that their writer purged.
        left_out: the tags of metrics beyond the largest number that a run can have.
        mixed: whether metrics count their steps differently.
        names: the names of the metrics.
    """

    attempts: list[dict[int, Row]] = field(default_factory=list)
    replaced: int = 0
    purged: int = 0
    left_out: set[str] = field(default_factory=set)
    mixed: bool = False
    names: MetricNames = field(default_factory=MetricNames)
    # the newest step of each metric in the newest attempt
    _last: dict[str, int] = field(default_factory=dict)

    def extend(
        self, values: Iterable[Value], *, is_parallel: bool = False, purge: int | None = None
    ) -> None:
        """Add a stretch.

        Args:
            values: the values in the order in which they were logged.
            is_parallel: whether it was logged at the same time as the stretch before, so that it
                belongs to the same attempt.
            purge: the step from which on its writer purged all earlier values; None: none.
        """
        first = True
        for part in _parts(values):
            restarted = first and purge is not None and self._purge(purge, part)
            if (
                not self.attempts
                or restarted
                or (not (first and is_parallel) and self._is_again(part))
            ):
                self.attempts.append({})
                self._last = {}
            self._put(part)
            first = False
        if first and purge is not None:
            self._purge(purge, [])

    def _purge(self, begin: int, values: list[Value]) -> bool:
        """Remove purged values that no later attempt replaces; return whether values are left.

        Values from the first step of the new values on stay: the new attempt undoes them.
        """
        end = min((step for step, *_ in values), default=None)
        for rows in self.attempts:
            for step in [step for step in rows if begin <= step and (end is None or step < end)]:
                self.purged += len(rows.pop(step).metrics)
        self.attempts = [rows for rows in self.attempts if rows]
        return bool(self.attempts)

    def _is_again(self, values: list[Value]) -> bool:
        """Return whether values go back as after a restart; notes in `mixed` if they do not."""
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
        # One value may belong to the step at which the checkpoint was written.
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
        """Yield step, time, nanoseconds since the row before, and metrics of an attempt's rows."""
        rows = self.attempts[attempt]
        before = None
        for step in sorted(rows):
            row = rows[step]
            since = 0 if before is None else max(row.time_ns - before, 0)
            before = row.time_ns
            yield step, row.time_ns, since, row.metrics

    def times(self, attempt: int) -> tuple[int, int]:
        """Return the times of an attempt's earliest and latest row."""
        times = [row.time_ns for row in self.attempts[attempt].values()]
        return min(times), max(times)


class Places:
    """Finds the attempt and tick of a moment: the first tick that ends then or later."""

    def __init__(self, history: History) -> None:
        self._places = sorted(
            (row.time_ns, attempt, step)
            for attempt, rows in enumerate(history.attempts)
            for step, row in rows.items()
        )

    def find(self, time_ns: int) -> tuple[int, int]:
        """Return the attempt and the tick of a moment; after the end, those of the last tick."""
        at = bisect_left(self._places, (time_ns,))
        _, attempt, step = self._places[min(at, len(self._places) - 1)]
        return attempt, step


def _parts(values: Iterable[Value]) -> Iterator[list[Value]]:
    """Cut a stretch where a metric is logged again for a step before its newest one."""
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
