"""What phases may cost: beyond it they are measured on some ticks only."""

from __future__ import annotations

DEFAULT = 0.001
WINDOW = 64  # ticks between two decisions
RAREST = 64  # phases of at least every 64th tick are measured


class Budget:
    """Weighs what phases cost against the ticks they are of.

    Args:
        share: of the tick's time that phases may take; 0.001 is 0.1 %.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._now_ns: int | None = None
        self.every = 1  # phases of every so many ticks are measured

    def weigh(self, spent_ns: int, now_ns: int) -> bool:
        """Once in `WINDOW` ticks, what their phases cost; True if `every` changes."""
        passed = 0 if self._now_ns is None else now_ns - self._now_ns
        self._now_ns = now_ns
        before, allowed = self.every, self._share * passed
        if passed and spent_ns > allowed:
            self.every = min(2 * before, RAREST)
        elif spent_ns < allowed / 4:
            self.every = max(before // 2, 1)
        return self.every != before
