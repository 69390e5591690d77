"""The bar: tick, loss, tokens per second and time left, by tqdm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TERMINAL_PERIOD_NS = 100_000_000
LINE_PERIOD_NS = 10_000_000_000  # into a file or a pipe: whole lines, and fewer


class Progress:
    """Redraws at most ten times a second on a terminal, and a line every ten seconds elsewhere.

    Between two drawings a tick costs a comparison and two additions.
    """

    def __init__(self, *, initial: int = 0, total: int | None = None, enabled: bool = True) -> None:
        self._terminal = sys.stderr.isatty()
        self._period = TERMINAL_PERIOD_NS if self._terminal else LINE_PERIOD_NS
        self._due = 0
        self._tokens = 0.0
        self._spent = 0
        self._bar: Any = None
        self._last: tuple[int, Mapping[str, float | str]] | None = None
        if enabled:
            # without a terminal tqdm only keeps the rate and words the line; it draws nothing
            self._bar = tqdm(
                initial=initial,
                total=total,
                unit="tick",
                leave=True,
                dynamic_ncols=True,
                file=sys.stderr if self._terminal else _Nowhere(),
                mininterval=0,
                miniters=1,
            )

    @property
    def shown(self) -> bool:
        """Whether there is anything to draw on."""
        return self._bar is not None

    def show(
        self, tick: int, wall_ns: int, metrics: Mapping[str, float | str], now_ns: int
    ) -> None:
        """Tell of a finished tick."""
        tokens = metrics.get("tokens")
        if tokens is not None:
            self._tokens += float(tokens)
        self._spent += wall_ns
        self._last = (tick, metrics)
        if now_ns >= self._due:
            self._due = now_ns + self._period
            self._draw()

    def _draw(self) -> None:
        assert self._last is not None
        tick, metrics = self._last
        parts = []
        if "loss" in metrics:
            loss = f"{float(metrics['loss']):#.5g}".rstrip(".")  # 2.0000, 12346, 3.0000e-06
            parts.append(f"loss {loss}")
        if self._tokens and self._spent:
            parts.append(f"{self._tokens / self._spent * 1e9:,.0f} tokens/s")
        self._tokens, self._spent = 0.0, 0
        self._last = None
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(tick - self._bar.n)
        if not self._terminal:
            print(str(self._bar), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Draw what is not drawn yet and leave the bar standing."""
        if self._bar is None:
            return
        if self._last is not None:
            self._draw()
        self._bar.close()
        self._bar = None


def last_tick(loader: Iterable[Any], size: int, done: int) -> int | None:
    """The tick with which a loader will be exhausted, if it says how long it is.

    Args:
        loader: of batches.
        size: batches in a tick.
        done: ticks that are done.
    """
    length = getattr(loader, "__len__", None)
    if length is None:
        return None
    try:
        return done + -(-int(length()) // size)
    except TypeError:  # torch's loader over an iterable data set has a length that raises
        return None


class _Nowhere:
    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...
