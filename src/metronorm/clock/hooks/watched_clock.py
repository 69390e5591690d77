"""What hooks may use of a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from metronorm.clock.phase_timer import Phase


class WatchedClock(Protocol):
    """The clock as the hooks see it; `metronorm.clock.Clock` has these methods and more."""

    @property
    def tick(self) -> int:
        """The number of the running tick, or of the last one."""

    @property
    def in_loop(self) -> bool:
        """Whether a loop over `clock.ticks` runs: then that loop begins and ends the ticks."""

    def now(self) -> int:
        """The clock's monotonic time in nanoseconds."""

    def phase(self, name: str) -> Phase:
        """The phase with this name, to be entered and left.

        Raises:
            ConfigError: no phase can have this name.
        """

    def arrive(self, *, waited_ns: int = 0) -> None:
        """Record that this rank has its gradients now.

        Args:
            waited_ns: nanoseconds that this rank waited for others earlier in the tick.
        """

    def begin_tick(self) -> None:
        """Begin the next tick.

        Raises:
            ConfigError: a tick is running.
        """

    def end_tick(self, *, beats: int = 1) -> None:
        """End and record the running tick.

        Args:
            beats: micro-batches in the tick, at least 1.

        Raises:
            ConfigError: no tick is running.
        """

    def abandon_tick(self, *, keep_time: bool) -> None:
        """Undo `begin_tick`: nothing is recorded, and the next tick gets the same number.

        Args:
            keep_time: whether the time since `begin_tick` counts to the next tick.
        """

    def discard_time(self) -> None:
        """Stop the time between two ticks; the time since the last tick counts to no tick."""

    def pause(self) -> None:
        """Stop the time between two ticks; phases since the last tick count to that tick."""
