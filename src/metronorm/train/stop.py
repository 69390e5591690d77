"""SIGTERM, SIGHUP and Ctrl-C ask the training to finish its tick, save, and go.

| a signal comes | what happens |
| --- | --- |
| before `begin`: there is nothing to save | what the process does with it otherwise |
| after it | all ranks finish the tick, save, and go |
| when that is done, until all ranks have | nothing: launchers send SIGTERM to the last ones |
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from metronorm.train.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """From `begin` to its exit, the first signal is noted; a second Ctrl-C interrupts at once.

    Outside the main thread, where Python lets no one handle signals, it notes nothing.
    """

    def __init__(self) -> None:
        self._world = World()
        self._heard: signal.Signals | None = None
        self._agreed: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self, world: World) -> None:
        """Note signals from now on.

        Args:
            world: the processes that stop together.
        """
        self._world = world
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup has it that a closed terminal ends nothing
                self._before[number] = signal.signal(number, self._note)

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ends the training; of several processes, one on which all have agreed."""
        return self._heard if self._world.size == 1 else self._agreed

    def agree(self) -> None:
        """Let a signal that one process has heard count for all; all must call this in step."""
        if self._world.size > 1 and not self._agreed:
            number = self._world.largest(int(self._heard or 0))
            self._agreed = signal.Signals(number) if number else None
            if self._agreed and self._world.first:
                _say(self._agreed)

    def until_signal(self, source: Iterable[T]) -> Iterator[T]:
        """What `source` gives, up to the first signal; on all ranks as many."""
        for each in source:
            self.agree()
            if self.signal is not None:
                return
            yield each

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._heard is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._heard = signal.Signals(number)
        if self._world.size == 1:  # else when all agree: a launcher sends one where a rank is lost
            _say(self._heard)


def _say(heard: signal.Signals) -> None:
    said = f"\n{heard.name}: finishing this tick, then saving (Ctrl-C again stops at once)\n"
    # not print: the signal may have come in the middle of one, and a buffer is not re-entrant
    with contextlib.suppress(OSError):
        os.write(2, said.encode())
