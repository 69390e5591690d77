"""Where the attempts of a run began, and the ticks of older attempts that this left behind.

An attempt begins after the tick of the checkpoint from which it goes on. The events `resume` and
`branch` of a training name that checkpoint; in other runs the first tick of the attempt shows it.

| event of the attempt | it begins | ticks of older attempts from there on |
| --- | --- | --- |
| `branch` | where a person wanted it | were left behind by choice |
| `resume`, or none | where the attempt before was saved last | are done again |
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metronorm.runs.events import Event

# the events that say where an attempt begins
BEGINNINGS = ("resume", "branch")
_CHECKPOINT = re.compile(r"(?:.*/)?tick-(\d+)", re.DOTALL)


class Beginning(NamedTuple):
    """An attempt, its first tick, and whether it is a branch."""

    attempt: int
    tick: int
    is_branch: bool


class LeftBehind(NamedTuple):
    """Ticks of an attempt, from `first` on and before `end`, that the attempt `by` left behind.

    `end` is None where all later ticks are meant.
    """

    attempt: int
    first: int
    end: int | None
    by: Beginning

    @property
    def condition(self) -> str:
        """SQL: whether a row of `ticks` is one of them."""
        before = "" if self.end is None else f" and tick < {self.end}"
        return f"(attempt = {self.attempt} and tick >= {self.first}{before})"


def beginnings(first_ticks: Iterable[tuple[int, int]], events: Iterable[Event]) -> list[Beginning]:
    """Where each attempt began, in the order of the attempts.

    Args:
        first_ticks: attempts, each with the first tick that it has recorded.
        events: those called `resume` and `branch`; others, of a script, may have the same names.
    """
    found = {attempt: Beginning(attempt, tick, False) for attempt, tick in first_ticks}
    for event in events:
        tick = _first_tick(event)
        if tick is not None:
            known = found.get(event.attempt, Beginning(event.attempt, tick, False))
            is_branch = known.is_branch or event.name == "branch"
            found[event.attempt] = Beginning(event.attempt, min(known.tick, tick), is_branch)
    return [found[attempt] for attempt in sorted(found)]


def left_behind(begun: list[Beginning]) -> list[LeftBehind]:
    """The ticks that later attempts left behind; each is there once, by the first that did."""
    found = []
    for at, own in enumerate(begun):
        end = None
        for later in begun[at + 1 :]:
            if end is None or later.tick < end:
                found.append(LeftBehind(own.attempt, later.tick, end, later))
                end = later.tick
    return found


def _first_tick(event: Event) -> int | None:
    """The first tick after the checkpoint that the event names; None if it names none."""
    if event.name not in BEGINNINGS or "checkpoint" not in event.fields:
        return None
    checkpoint = event.fields["checkpoint"]
    if checkpoint is None:
        return 1  # the run was killed before its first checkpoint
    found = _CHECKPOINT.fullmatch(str(checkpoint))
    return int(found[1]) + 1 if found else None
