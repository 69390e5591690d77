"""Phases that begin in one hook and end in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metronorm.clock.clock import Clock
    from metronorm.clock.phase_timer import Phase as Account


class Phase:
    """One that is open; `Phases` makes it."""

    __slots__ = ("account", "name")

    def __init__(self, name: str, account: Account) -> None:
        self.name, self.account = name, account


class Phases:
    """The open phases of one watch; they close from the inside out.

    They may be opened and closed in a thread of autograd's, while that of the loop waits for it.

    Args:
        clock: whose phases they are.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: list[Phase] = []

    def open(self, name: str) -> Phase:
        """Enter a phase."""
        phase = Phase(name, self._clock.phase(name))
        phase.account.enter()
        self._open.append(phase)
        return phase

    def close(self, phase: Phase) -> None:
        """Leave a phase, and those inside it that an exception left open; twice is once."""
        while phase in self._open:
            self._open.pop().account.leave()
