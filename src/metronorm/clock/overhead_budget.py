"""The overhead budget: beyond it, phases are measured in some ticks only."""

from __future__ import annotations

DEFAULT = 0.001
WINDOW = 64  # ticks between two reviews
RAREST = 64  # phases are measured in every 64th tick at least


class Budget:
    """Compares what measuring phases costs with the time of the ticks, once per `WINDOW` ticks.

    | cost of the window | next `every` | why |
    | --- | --- | --- |
    | more than allowed | twice as much, `RAREST` at most | half of the phases cost half as much |
    | a quarter of what is allowed, or more | the same | |
    | less than a quarter | half as much, 1 at least | it then costs half of what is allowed |

    The factor between the two limits keeps `every` from changing back and forth.

    Args:
        share: part of the ticks' time that measuring phases may cost; 0.001 is 0.1 %.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._reviewed_ns: int | None = None
        self.every = 1  # phases are measured in every N-th tick

    def review(self, spent_ns: int, now_ns: int) -> bool:
        """Decide for the next window; whether `every` changes.

        Args:
            spent_ns: nanoseconds that measuring phases cost in the window.
            now_ns: the end of the window, in nanoseconds.
        """
        passed_ns = 0 if self._reviewed_ns is None else now_ns - self._reviewed_ns
        self._reviewed_ns = now_ns
        before, allowed_ns = self.every, self._share * passed_ns
        if passed_ns and spent_ns > allowed_ns:
            self.every = min(2 * before, RAREST)
        elif spent_ns < allowed_ns / 4:
            self.every = max(before // 2, 1)
        return self.every != before
