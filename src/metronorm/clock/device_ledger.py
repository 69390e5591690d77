"""The accounts of a tick in the time of an accelerator.

At every change of phase a moment is marked in the device's stream of work, and nothing waits for
it. A stretch between two moments is charged to the phase that was open: while the device computes
ahead of the host, a wait for data costs it nothing and is charged nothing; when it runs dry, the
wait is what it did. The stretches of a tick follow each other, so they add up to its wall time.
"""

from __future__ import annotations

import functools
import itertools
from threading import get_ident
from typing import TYPE_CHECKING

from metronorm.clock.other_threads import works_for_the_loop
from metronorm.clock.phase_timer import Phases
from metronorm.store.schema import UNATTRIBUTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.clock.device import Device, Moment


class DeviceLedger:
    """To be used as `Ledger` is; what `close` gives is known when the device has come so far.

    Args:
        now: a monotonic clock of the host, in integer nanoseconds.
        device: whose time it is.
        counts: whether a phase of this name counts that another thread than the loop's opens.
    """

    def __init__(
        self,
        now: Callable[[], int],
        device: Device,
        counts: Callable[[str], bool] = works_for_the_loop,
    ) -> None:
        self._now, self._counts = now, counts
        self._thread: int | None = None  # that began
        self.last = now()
        self.phases = Phases(functools.partial(_DeviceAccount, self))
        self.entered = 0  # how often phases were, in all
        self.counting = False  # whether time that no phase covers is a tick's
        self._device = device
        self._stack: list[str] = []
        self._marks: list[tuple[Moment, str]] = []

    def begin(self) -> None:
        """From now on what no phase covers is `unattributed`."""
        self.last = self._now()
        self._thread = get_ident()
        self.counting = True
        self.mark()

    def pause(self) -> None:
        """From now on what no phase covers is nobody's."""
        self.counting = False
        self.mark()

    def close(self) -> tuple[int, DevicePhases]:
        """End the tick now, where the next one starts: its time on the host, and its accounts."""
        moment = self._now()
        wall_ns = moment - self.last
        self.last = moment
        self.mark()
        marks, self._marks = self._marks, self._marks[-1:]
        return wall_ns, DevicePhases(self._device, marks)

    def count_here(self, name: str) -> bool:
        """Whether what this thread does with the phase counts."""
        return self._thread in (None, get_ident()) or self._counts(name)

    def enter(self, name: str) -> None:
        """What follows is charged to `name`."""
        self.entered += 1
        self._stack.append(name)
        self.mark()

    def leave(self, name: str) -> None:
        """What follows is charged to the phase outside, if there is one.

        Phases inside that are still open are left too.
        """
        if name in self._stack:
            while self._stack.pop() != name:
                pass
            self.mark()

    def mark(self) -> None:
        """A moment, from which on the innermost open phase is charged."""
        bottom = UNATTRIBUTED if self.counting else ""
        charged = self._stack[-1] if self._stack else bottom
        self._marks.append((self._device.mark(), charged))


class _DeviceAccount:
    __slots__ = ("_ledger", "_name")

    def __init__(self, ledger: DeviceLedger, name: str) -> None:
        self._ledger, self._name = ledger, name

    def __enter__(self) -> None:
        if self._ledger.count_here(self._name):
            self.enter()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._ledger.count_here(self._name):
            self.leave()

    def enter(self) -> None:
        self._ledger.enter(self._name)

    def leave(self) -> None:
        self._ledger.leave(self._name)


class DevicePhases:
    """The phases of one tick, on their way."""

    def __init__(self, device: Device, marks: list[tuple[Moment, str]]) -> None:
        self._device, self._marks = device, marks

    def __bool__(self) -> bool:
        """Whether any of the time is a phase's."""
        return any(name not in ("", UNATTRIBUTED) for _, name in self._marks[:-1])

    def ready(self) -> bool:
        """Whether the device has come to the end of the tick; never waits."""
        # the last first; there may be several streams
        return all(moment.ready() for moment, _ in reversed(self._marks))

    def get(self) -> tuple[int, dict[str, int]]:
        """Wall time and phases in ns of device time; waits if it must."""
        for moment, _ in reversed(self._marks):
            moment.wait()
        spent = {UNATTRIBUTED: 0}
        for (begin, name), (end, _) in itertools.pairwise(self._marks):
            if name:
                spent[name] = spent.get(name, 0) + self._device.elapsed_ns(begin, end)
        return sum(spent.values()), spent
