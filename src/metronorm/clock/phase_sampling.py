"""Which phases are measured: in whose time, in which ticks, and what measuring them costs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from metronorm.clock.device import find_device
from metronorm.clock.device_ledger import DeviceLedger
from metronorm.clock.overhead_budget import WINDOW, Budget
from metronorm.clock.phase_timer import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.clock.device import Device
    from metronorm.clock.phase_timer import Phase

TRIALS = 100  # calls that are measured when a clock opens

_SCATTER = 2654435761  # 2**32 over the golden ratio (Knuth, The Art of Computer Programming 6.4)


class PhaseSampling:
    """The ledger of a clock, and whether the running tick's phases are measured by it.

    | phases cost | measured | `clock.phase` gives |
    | --- | --- | --- |
    | no more than the budget | in all ticks | a phase of the ledger |
    | more than the budget | in 1 of `every` ticks, and between loops | that, else an idle phase |

    Ticks with phases are scattered: at a fixed distance they might always, or never, meet an
    evaluation or a checkpoint that comes in a fixed distance too.

    Args:
        now: a monotonic clock in integer nanoseconds.
        device: the accelerator that measures phases; None: the host, until `use_device`.
        budget: part of a tick that measuring its phases may cost.
        counts: whether a phase with this name counts in a thread other than the loop's.
        event: records an event by its name and fields.
        publish: gets the function that `clock.phase` is from now on.
    """

    def __init__(
        self,
        *,
        now: Callable[[], int],
        device: Device | None,
        budget: float,
        counts: Callable[[str], bool],
        event: Callable[..., None],
        publish: Callable[[Callable[[str], Phase]], None],
    ) -> None:
        self._now, self._counts, self._event, self._publish = now, counts, event, publish
        self._device = device
        self.budget = Budget(budget)
        self.measured = True  # whether phases of the running tick are recorded
        self.is_active = False  # whether phases of some ticks are not
        self.ticks_to_review = WINDOW
        self.cost_of_phase_ns = 0
        self._entered = 0  # how often phases were entered before the window of the next review
        self._use(self._new_ledger(device))

    def calibrate(self) -> None:
        """Find out what a phase costs here; measuring each phase would cost as much again."""
        self.cost_of_phase_ns = self._measure_phase(self._new_ledger(self._device))

    def new_device(self) -> Device | None:
        """The accelerator that the process uses by now, if phases are not in a device's time."""
        return None if isinstance(self.ledger, DeviceLedger) else find_device()

    def use_device(self, device: Device) -> None:
        """Measure phases in this device's time from now on; only between two loops."""
        self.cost_of_phase_ns = self._measure_phase(self._new_ledger(device))
        self._use(self._new_ledger(device))

    @property
    def phases_cost_ns(self) -> int:
        """What all phases of this ledger cost so far."""
        return self.ledger.entered * self.cost_of_phase_ns

    def review(self, tick: int) -> None:
        """Decide whether phases of the tick after `tick` are measured.

        To be called after every tick while `is_active`, and when `ticks_to_review` is 0.
        """
        if not self.ticks_to_review:
            entered, self._entered = self.ledger.entered - self._entered, self.ledger.entered
            if self.budget.review(entered * self.cost_of_phase_ns, self.ledger.last):
                self._event("sampling", every=self.budget.every)
            self.ticks_to_review = WINDOW
        self.is_active = self.budget.every > 1
        self.measured = tick * _SCATTER % 2**32 < 2**32 // self.budget.every
        self.choose_phases()

    def choose_phases(self) -> None:
        """Publish what `clock.phase` is now: phases between two loops are always measured."""
        measured = self.measured or not self.ledger.counting
        self._publish(self.ledger.phases.__getitem__ if measured else _unmeasured)

    def _measure_phase(self, ledger: Ledger | DeviceLedger) -> int:
        begin = self._now()
        for _ in range(TRIALS):
            with ledger.phases["trial"]:
                pass
        return (self._now() - begin) // TRIALS

    def _new_ledger(self, device: Device | None) -> Ledger | DeviceLedger:
        if device is None:
            return Ledger(self._now, self._counts)
        return DeviceLedger(self._now, device, self._counts)

    def _use(self, ledger: Ledger | DeviceLedger) -> None:
        self.ledger = ledger
        self._entered = 0
        self._publish(ledger.phases.__getitem__)


class _UnmeasuredPhase(contextlib.nullcontext[None]):
    def enter(self) -> None: ...
    def leave(self) -> None: ...


_UNMEASURED = _UnmeasuredPhase()


def _unmeasured(name: str) -> Phase:
    return _UNMEASURED
