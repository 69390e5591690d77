"""What the clock may cost: beyond it, phases are measured on some ticks only."""

from __future__ import annotations

import statistics

DEFAULT = 0.001
WINDOW = 64  # ticks between two decisions
RAREST = 64  # phases of at least every 64th tick are measured


class Budget:
    """Weighs what the clock costs against the ticks it records.

    Args:
        share: of the tick's time that the clock may take; 0.001 is 0.1 %.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._now_ns: int | None = None
        self.every = 1  # phases of every so many ticks are measured

    def weigh(self, costs_ns: list[int], now_ns: int) -> bool:
        """Once in `WINDOW` ticks, what each of them cost; True if `every` changes.

        More than four times what is usual is another process's that had the processor meanwhile.
        """
        usual = statistics.median(costs_ns)
        spent = sum(min(cost, 4 * usual) for cost in costs_ns)
        passed = 0 if self._now_ns is None else now_ns - self._now_ns
        self._now_ns = now_ns
        before, allowed = self.every, self._share * passed
        if passed and spent > allowed:
            self.every = min(2 * before, RAREST)
        elif spent < allowed / 4:
            self.every = max(before // 2, 1)
        return self.every != before
