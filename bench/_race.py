"""Contestants take turns in one process, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def no_wait() -> None:
    """A CPU has computed when the call returns."""


def race(
    contestants: dict[str, Callable[[], object]],
    *,
    seconds: float = 2.0,
    least: int = 15,
    wait: Callable[[], None] = no_wait,
) -> dict[str, list[float]]:
    """Milliseconds of every turn of every contestant; as many turns for each.

    A turn that is shorter than 2 ms is the mean of several calls in a row. `wait` returns when the
    device has computed everything; it is called before a turn begins and before it ends.
    """
    calls = {}
    for name, call in contestants.items():
        call()  # compiles, allocates
        wait()
        begin = time.perf_counter()
        call()
        wait()
        calls[name] = max(1, round(2e-3 / (time.perf_counter() - begin)))
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(turns.values()))) < least:
        for name, call in contestants.items():
            wait()
            begin = time.perf_counter()
            for _ in range(calls[name]):
                call()
            wait()
            turns[name].append((time.perf_counter() - begin) / calls[name] * 1e3)
    return turns


def ratios(turns: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    """How many times faster `fast` was, turn by turn."""
    return [a / b for a, b in zip(turns[slow], turns[fast], strict=True)]
