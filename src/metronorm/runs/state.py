"""The state of the newest attempt of a run, in the words that `show` and `watch` print.

This module is the only place that decides it. The first table is about events, the second about
ranks without an `end`. In both, the first row that holds decides.

| the ranks recorded | state |
| --- | --- |
| an `end` with an error, in any rank | failed: ERROR |
| no `end`, in a rank that has begun | the worst state of such ranks, by the next table |
| no `end` at all: no rank has begun | not begun |
| a `signal` | stopped by SIGNAL |
| a `stop` with a reason | stopped: REASON |
| an `end` by Ctrl-C | stopped by KeyboardInterrupt |
| an `end` | finished |

A rank has begun if it recorded a `start`, or if its owner file names a process while the `start`
is not on the tape yet.

A killed process records no `end`. The owner file of the rank (`metronorm.store.owner`) shows
whether its owner lives; the `start` names the process that began the attempt, and its host:

| owner file | process of the `start` | rank | because |
| --- | --- | --- | --- |
| names another process | | killed | the rank was taken for a new attempt |
| owned | | running | a living process holds the lock |
| not owned | | killed | the kernel released the lock of a dead process |
| unknown, touched a moment ago | | running | a living process touches it every second |
| unknown, or no file | of another host, or not known | running or killed | it cannot be asked |
| unknown, or no file | exists | running | |
| unknown, or no file | does not exist | killed | |

"Unknown" means that a look at the owner file does not show whether the rank is owned: its process
is of another machine, or the file system has no locks. Runs of older versions and imported runs
have no owner file.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, Literal

from metronorm.files import is_alive
from metronorm.runs.events import read_events
from metronorm.scalars import as_integer
from metronorm.store.owner import read_owner_file
from metronorm.store.run_directory import folder_number, numbered_folders
from metronorm.store.sql_columns import literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from metronorm.runs.events import Event
    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

# the events that decide the state of an attempt
STATE_EVENTS = ("start", "signal", "stop", "end")
# errors that end an attempt because a person wants it
_STOPPED_BY = ("KeyboardInterrupt",)

_WORST_FIRST = ("killed", "running or killed", "running")


class AttemptEvents:
    """The fields of the `STATE_EVENTS` of one attempt: of each event, by rank."""

    def __init__(self) -> None:
        self.start: dict[int, dict[str, Any]] = {}
        self.signal: dict[int, dict[str, Any]] = {}
        self.stop: dict[int, dict[str, Any]] = {}
        self.end: dict[int, dict[str, Any]] = {}
        self._by_name = {name: getattr(self, name) for name in STATE_EVENTS}

    def add(self, name: str, rank: int, fields: dict[str, Any]) -> None:
        """Add an event of any name; events are added in the order of their time.

        Of each name and rank the first counts: it is the clock's own, whereas a script may record
        more events with these names.
        """
        if name in self._by_name:
            self._by_name[name].setdefault(rank, fields)


def run_state(run: Run, events: Table) -> str:
    """The state of the newest attempt of a run; see the tables of this module.

    Args:
        run: the run.
        events: its events, as `run.events()` gives them.
    """
    attempt = max(run.attempts, default=-1)
    names = ", ".join(map(literal, STATE_EVENTS))
    found = read_events(events, f"attempt = {attempt} and event in ({names})")
    return state_after(found, run.directory, attempt)


def state_after(events: Iterable[Event], directory: Path, attempt: int) -> str:
    """The state of the newest attempt; see the tables of this module.

    Args:
        events: those of the attempt, at least the `STATE_EVENTS`, in the order of their time.
        directory: the directory of the run.
        attempt: the number of the attempt.
    """
    attempt_events = AttemptEvents()
    for event in events:
        attempt_events.add(event.name, event.rank, event.fields)
    tapes = numbered_folders(directory / "ticks" / f"attempt={attempt}", "rank")
    return attempt_state(directory, map(folder_number, tapes), attempt_events)


def attempt_state(directory: Path, ranks: Iterable[int], events: AttemptEvents) -> str:
    """The state of the newest attempt; see the tables of this module.

    Args:
        directory: the directory of the run.
        ranks: the ranks that have a tape in the attempt; its `start` may not be on the tape yet.
        events: the events of the attempt.

    Returns:
        "not begun", "running", "killed", "running or killed", "finished", "stopped by SIGNAL",
        "stopped: REASON" or "failed: ERROR".
    """
    errors = [error for fields in events.end.values() if (error := failure(fields))]
    if errors:
        return f"failed: {errors[0]}"
    open_ranks = (events.start.keys() | set(ranks)) - events.end.keys()
    states = {_open_rank(directory, rank, events.start.get(rank)) for rank in open_ranks}
    states.discard("not begun")
    if states:
        return next(state for state in _WORST_FIRST if state in states)
    if not events.end:
        return "not begun"
    signals = [fields.get("signal") for fields in events.signal.values()]
    signals += [fields["error"] for fields in events.end.values() if fields.get("error")]
    if signals:
        return f"stopped by {signals[0]}"
    reasons = [fields["reason"] for fields in events.stop.values() if fields.get("reason")]
    return f"stopped: {reasons[0]}" if reasons else "finished"


def failure(end: dict[str, Any]) -> str | None:
    """The error that ended an attempt; None if nothing failed, as when a person stopped it.

    Args:
        end: the fields of an event `end`.
    """
    error = end.get("error")
    return None if error is None or error in _STOPPED_BY else str(error)


def _open_rank(
    directory: Path, rank: int, start: dict[str, Any] | None
) -> Literal["not begun", "running", "killed", "running or killed"]:
    """The state of a rank that has recorded no `end`, by the second table.

    Args:
        directory: the directory of the run.
        rank: the rank.
        start: the fields of its event `start`; None if there is none.
    """
    file = read_owner_file(directory, rank)
    owner = file.owner if file else None
    if start is None and owner is None:
        return "not begun"
    start = start or {}
    process, host = as_integer(start.get("process")) or 0, start.get("host")
    if file is not None:
        if owner and process and owner.process and (owner.process, owner.host) != (process, host):
            return "killed"
        if file.is_owned is not None:
            return "running" if file.is_owned else "killed"
        if file.is_touched:
            return "running"
    if host != platform.node() or process < 1:
        return "running or killed"
    return "running" if is_alive(process) else "killed"
