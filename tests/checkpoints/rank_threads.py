"""Ranks that are threads of one process: what they agree on is real, and no process is started."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Thread:
    """One of the ranks, as checkpoints see it."""

    def __init__(self, rank: int, given: list[bytes], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(given)
        self._given, self._barrier = given, barrier

    def gather(self, value: bytes) -> list[bytes]:
        self._given[self.rank] = value
        self._barrier.wait(timeout=20)
        found = list(self._given)
        self._barrier.wait(timeout=20)
        return found


def on_ranks(size: int, work: Callable[[Thread], Any]) -> list[Any]:
    """What a function returns on every rank, or the exception that it raises there."""
    given, barrier = [b""] * size, threading.Barrier(size)

    def run(rank: int) -> Any:
        try:
            return work(Thread(rank, given, barrier))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
