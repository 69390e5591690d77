"""Phases that begin in one hook and end in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metronorm.clock.hooks.watched_clock import WatchedClock
    from metronorm.clock.phase_timer import Phase


class OpenPhase:
    """A phase that a hook has entered; `OpenPhases.open` makes it."""

    __slots__ = ("name", "phase")

    def __init__(self, name: str, phase: Phase) -> None:
        self.name, self.phase = name, phase


class OpenPhases:
    """The stack of phases that the hooks of one watch have entered and not left.

    A thread of autograd may open and close phases too, while the thread of the loop waits for it.

    Args:
        clock: the clock that measures the phases.
    """

    def __init__(self, clock: WatchedClock) -> None:
        self._clock = clock
        self._stack: list[OpenPhase] = []

    def open(self, name: str) -> OpenPhase:
        """Enter the phase with this name."""
        opened = OpenPhase(name, self._clock.phase(name))
        opened.phase.enter()
        self._stack.append(opened)
        return opened

    def close(self, opened: OpenPhase) -> None:
        """Leave a phase, and phases inside it that an exception left open; twice does nothing."""
        while opened in self._stack:
            self._stack.pop().phase.leave()
