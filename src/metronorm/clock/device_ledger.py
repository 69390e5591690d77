"""Where the time of a tick went, in the time of an accelerator.

At every change of phase a moment is marked in the device's stream of work, and nothing waits for
it. The stretch between two moments is charged to the phase that was open. While the device still
has work, a wait for data costs it no time and is charged none; a device without work waits too, and
that time is charged. The stretches of a tick follow each other, so they add up to its wall time.
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
    """Used like `Ledger`, but the result of `close` is known later, when the device is there.

    Args:
        now: a monotonic clock of the host, in integer nanoseconds.
        device: the accelerator that measures.
        counts: whether a phase with this name counts in a thread other than the loop's.
    """

    def __init__(
        self,
        now: Callable[[], int],
        device: Device,
        counts: Callable[[str], bool] = works_for_the_loop,
    ) -> None:
        self._now, self._counts = now, counts
        self._thread: int | None = None  # the thread that called `begin`
        self.last = now()
        self.phases = Phases(functools.partial(_DeviceAccount, self))
        self.entered = 0  # how often phases were entered, in all
        self.counting = False  # whether time outside of phases belongs to a tick
        self._device = device
        self._stack: list[str] = []
        self._marks: list[tuple[Moment, str]] = []

    def begin(self) -> None:
        """From now on time outside of phases is `unattributed`."""
        self.last = self._now()
        self._thread = get_ident()
        self.counting = True
        self.mark()

    def pause(self) -> None:
        """From now on time outside of phases belongs to no tick."""
        self.counting = False
        self.mark()

    def close(self) -> tuple[int, DevicePhases]:
        """End the tick, where the next one begins: host time in nanoseconds, and its phases."""
        moment = self._now()
        wall_ns = moment - self.last
        self.last = moment
        self.mark()
        marks, self._marks = self._marks, self._marks[-1:]
        return wall_ns, DevicePhases(self._device, marks)

    def count_here(self, name: str) -> bool:
        """Whether the phase with this name counts in this thread."""
        return self._thread in (None, get_ident()) or self._counts(name)

    def enter(self, name: str) -> None:
        """Charge the time from now on to `name`."""
        self.entered += 1
        self._stack.append(name)
        self.mark()

    def leave(self, name: str) -> None:
        """Charge the time from now on to the phase around `name`, if there is one.

        Phases inside `name` that are still open are left too.
        """
        if name in self._stack:
            while self._stack.pop() != name:
                pass
            self.mark()

    def mark(self) -> None:
        """Mark a moment; the time after it is charged to the innermost open phase."""
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
    """The phases of one tick; the device may not have reached its end yet.

    Args:
        device: the accelerator that measures.
        marks: moments, each with the name that the time after it is charged to; "" for no tick.
            The last moment is the end of the tick.
    """

    def __init__(self, device: Device, marks: list[tuple[Moment, str]]) -> None:
        self._device, self._marks = device, marks

    def __bool__(self) -> bool:
        """Whether some of the time is in a phase."""
        return any(name not in ("", UNATTRIBUTED) for _, name in self._marks[:-1])

    def ready(self) -> bool:
        """Whether the device has reached the end of the tick; never waits."""
        # the last moment first; several streams may reach their moments in another order
        return all(moment.ready() for moment, _ in reversed(self._marks))

    def get(self) -> tuple[int, dict[str, int]]:
        """Wall time and time by phase, in nanoseconds of device time; waits for the device."""
        for moment, _ in reversed(self._marks):
            moment.wait()
        spent = {UNATTRIBUTED: 0}
        for (begin, name), (end, _) in itertools.pairwise(self._marks):
            if name:
                spent[name] = spent.get(name, 0) + self._device.elapsed_ns(begin, end)
        return sum(spent.values()), spent
