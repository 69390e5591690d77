"""The progress bar: tick, loss, tokens per second and remaining time, drawn by tqdm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TERMINAL_PERIOD_NS = 100_000_000
LINE_PERIOD_NS = 10_000_000_000  # into a file or a pipe: whole lines, and fewer of them


class Progress:
    """A bar that is redrawn ten times a second at most on a terminal; elsewhere a line in 10 s.

    Between two drawings a tick costs a comparison and two additions.

    Args:
        initial: how many ticks are done.
        total: the number of the last tick; None: unknown.
        enabled: whether anything is drawn.
    """

    def __init__(self, *, initial: int = 0, total: int | None = None, enabled: bool = True) -> None:
        self._terminal = sys.stderr.isatty()
        self._period_ns = TERMINAL_PERIOD_NS if self._terminal else LINE_PERIOD_NS
        self._due_ns = 0
        self._tokens = 0.0
        self._spent_ns = 0
        self._bar: Any = None
        self._last: tuple[int, Mapping[str, float | str]] | None = None  # not drawn yet
        if enabled:
            from tqdm import tqdm  # here, as `import metronorm.clock` must be quick

            # without a terminal tqdm draws nothing: it measures the rate and formats the line
            self._bar = tqdm(
                initial=initial,
                total=total,
                unit="tick",
                leave=True,
                dynamic_ncols=True,
                file=sys.stderr if self._terminal else _Discard(),
                mininterval=0,
                miniters=1,
            )

    def show(
        self, tick: int, wall_ns: int, metrics: Mapping[str, float | str], now_ns: int
    ) -> None:
        """Take a finished tick, and draw it if that is due.

        Args:
            tick: its number.
            wall_ns: its time in nanoseconds.
            metrics: values by name; `loss` and `tokens` are shown.
            now_ns: the clock's time in nanoseconds.
        """
        tokens = metrics.get("tokens")
        if tokens is not None:
            self._tokens += float(tokens)
        self._spent_ns += wall_ns
        self._last = (tick, metrics)
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + self._period_ns
            self._draw()

    def set_total(self, total: int | None) -> None:
        """Have another last tick; None: unknown."""
        if self._bar is not None:
            self._bar.total = total

    def _draw(self) -> None:
        assert self._last is not None
        tick, metrics = self._last
        parts = []
        if "loss" in metrics:
            loss = f"{float(metrics['loss']):#.5g}".rstrip(".")  # 2.0000, 12346, 3.0000e-06
            parts.append(f"loss {loss}")
        if self._tokens and self._spent_ns:
            parts.append(f"{self._tokens / self._spent_ns * 1e9:,.0f} tokens/s")
        self._tokens, self._spent_ns = 0.0, 0
        self._last = None
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(tick - self._bar.n)
        if not self._terminal:
            print(str(self._bar), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Draw the last tick if it is not drawn yet, and leave the bar on the terminal."""
        if self._bar is None:
            return
        if self._last is not None:
            self._draw()
        self._bar.close()
        self._bar = None


def last_tick(loader: Iterable[Any], size: int, done: int) -> int | None:
    """The number of the tick that exhausts a loader; None if the loader has no length.

    Args:
        loader: yields batches.
        size: batches in a tick.
        done: number of ticks that are done.
    """
    length = getattr(loader, "__len__", None)
    if length is None:
        return None
    try:
        return done + -(-int(length()) // size)
    except TypeError:  # torch's loader over an iterable data set has a length that raises
        return None


class _Discard:
    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...
