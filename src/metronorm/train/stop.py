"""SIGTERM, SIGHUP and Ctrl-C ask the training to finish its tick, save, and go."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """While entered, the first signal is noted in `signal`; a second Ctrl-C interrupts at once.

    Outside the main thread, where Python lets no one handle signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup has it that a closed terminal ends nothing
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def until_signal(self, source: Iterable[T]) -> Iterator[T]:
        """What `source` gives, up to the first signal."""
        for each in source:
            if self.signal is not None:
                return
            yield each

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        said = (
            f"\n{self.signal.name}: finishing this tick, then saving (Ctrl-C again stops at once)\n"
        )
        # not print: the signal may have come in the middle of one, and a buffer is not re-entrant
        with contextlib.suppress(OSError):
            os.write(2, said.encode())
