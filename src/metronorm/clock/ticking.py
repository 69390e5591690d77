"""The running tick: its phases, its metrics, and its record when it ends.

This is what the training thread pays for at every tick.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from metronorm.clock.accounts import all_plain
from metronorm.clock.budget import WINDOW, Budget
from metronorm.clock.deferred import Late, land
from metronorm.clock.device import Device, Pending, fetcher, find_device
from metronorm.clock.device_ledger import DeviceLedger, DevicePhases
from metronorm.clock.ledger import Ledger
from metronorm.clock.names import Names
from metronorm.clock.record import (
    TickRecord,
    check_one_element,
    plain_number,
    spell_out,
)
from metronorm.clock.store.tape import encode
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from metronorm.clock.store.recorder import Recorder

_SCATTER = 2654435761  # 2**32 over the golden ratio (Knuth, The Art of Computer Programming 6.4)
_TRIALS = 100
_TRIAL = {"loss": 1.0, "tokens": 1, "learning_rate": 1.0, "gradient_norm": 1.0}
_NO_PHASE = contextlib.nullcontext()


class Ticking:
    """One tick after the other.

    Args:
        now: a monotonic clock in integer nanoseconds.
        device: whose time phases are measured in; None: the host's, until an accelerator is used.
        budget: share of a tick that its phases may cost.
    """

    phase: Callable[[str], AbstractContextManager[None]]
    """A named stretch of the tick: `with clock.phase("forward"):`.

    Time in a phase between two loops (an evaluation after an epoch) counts to the next tick.
    """

    def __init__(self, *, now: Callable[[], int], device: Device | None, budget: float) -> None:
        self.tick = 0
        self.latest: TickRecord | None = None  # of the newest tick on record
        self._now = now
        self._epoch = time.time_ns() - now()
        self._device = device
        self._use_ledger(self._new_ledger(device))
        self._beats = 1
        self._arrival: int | None = None
        self._names = Names()
        self._metrics: dict[str, Any] = {}
        self._fetching: dict[str, Pending] = {}
        self._deferred: deque[Late] = deque()
        self._not_finite: set[str] = set()
        self._totals: dict[str, int] | None = None
        self._budget = Budget(budget)
        self._measured, self._sampling = True, False
        self._cost_ns = self._cost_on_record = self._logged = 0
        self._unweighed, self._entered = WINDOW, 0
        self._cost_of_phase = self._cost_of_log = 0
        self._recorder: Recorder | None = None
        self._put: Callable[[bytes], bool] = nowhere
        self._show: Callable[..., None] | None = None

    def log(self, **metrics: Any) -> None:
        """Put numbers on the tick's record; said twice, the last one holds.

        Takes Python numbers and anything of one element with `.item()` (tensors, NumPy scalars). A
        tensor on an accelerator is not waited for: its value is copied while training goes on, and
        the tick's record is written when it has arrived, a few ticks later. `loss` and `tokens`
        are shown in the bar.

        Raises:
            ConfigError: not one number, or a name that cannot be a column.
        """
        self._logged += 1
        if not all_plain(metrics, self._names.known):
            for name in self._names.check(metrics):
                del metrics[name]
            if not all_plain(metrics, self._names.known):
                self._convert(metrics)
        if self._metrics:
            self._metrics.update(metrics)
            for name in metrics.keys() & self._fetching.keys() if self._fetching else ():
                if metrics[name] is not None:  # said again, on the host
                    del self._fetching[name]
        else:
            self._metrics = metrics

    def _convert(self, metrics: dict[str, Any]) -> None:
        begin = self._now()
        fetching = {}
        for name, value in metrics.items():
            fetch = fetcher(value, self._device)
            if fetch is None:
                metrics[name] = plain_number(name, value)
            else:
                check_one_element(name, value)
                fetching[name] = fetch(value)
                metrics[name] = None  # keeps its place
        self._fetching |= fetching  # when all of them are numbers
        self._cost_ns += self._now() - begin

    def arrive(self, *, waited_ns: int = 0) -> None:
        """This rank has its gradients and enters the collective that waits for all ranks.

        Said several times in a tick, the last one holds; `waited_ns` is what it spent waiting for
        other ranks in the tick before.
        """
        self._arrival = self._now() - self._ledger.last - waited_ns

    def event(self, name: str, /, **fields: Any) -> None:
        """Put something that happened on record, with the tick it happened in; from any thread."""
        if self._recorder is None:
            raise not_entered()
        self._recorder.event(name, **fields)

    def flush(self) -> bool:
        """Wait until the ticks on record are on the disk, as before a checkpoint that follows them.

        They survive this process without it; other machines see them sooner. False if the disk
        does not take them within a few seconds.
        """
        if self._recorder is None:
            raise not_entered()
        return self._recorder.flush()

    def _calibrate(self) -> None:
        """What a phase and a call of `log` cost here: to measure each one would cost as much."""
        self._cost_of_phase = self._try_phase(self._new_ledger(self._device))
        begin = self._now()
        for _ in range(_TRIALS):
            self.log(**_TRIAL)
        self._cost_of_log = (self._now() - begin) // _TRIALS
        self._metrics, self._names, self._logged = {}, Names(), 0

    def _try_phase(self, ledger: Ledger | DeviceLedger) -> int:
        begin = self._now()
        for _ in range(_TRIALS):
            with ledger.phases["trial"]:
                pass
        return (self._now() - begin) // _TRIALS

    @property
    def totals(self) -> dict[str, int]:
        """Nanoseconds by phase, over all ticks since this was first asked; from any thread."""
        if self._totals is None:
            self._totals = {}
        return dict(self._totals)

    def _choose_ledger(self) -> None:
        """Between two loops the time may become that of an accelerator."""
        device = None if isinstance(self._ledger, DeviceLedger) else find_device()
        if device is not None:
            self._cost_ns += self._ledger.entered * self._cost_of_phase
            self._cost_of_phase = self._try_phase(self._new_ledger(device))
            self._use_ledger(self._new_ledger(device))
            self._entered = 0

    def _new_ledger(self, device: Device | None) -> Ledger | DeviceLedger:
        return Ledger(self._now) if device is None else DeviceLedger(self._now, device)

    def _use_ledger(self, ledger: Ledger | DeviceLedger) -> None:
        self._ledger = ledger
        self.phase = ledger.phases.__getitem__

    def _end(self) -> TickRecord | Late:
        ledger = self._ledger
        wall_ns, phases = ledger.close()
        if not self._measured:
            phases = {}
        metrics, self._metrics = self._metrics, {}
        cost_ns = (
            self._cost_ns + ledger.entered * self._cost_of_phase + self._logged * self._cost_of_log
        )
        record = TickRecord(
            int(self.tick),  # what a callback has set may be a NumPy integer
            self._epoch + ledger.last,
            wall_ns,
            self._beats,
            phases if type(phases) is dict else {},
            metrics,
            cost_ns - self._cost_on_record,
            self._arrival,
        )
        self._cost_on_record = cost_ns
        self._arrival = None
        if not self._fetching and type(phases) is dict:
            return record
        fetching, self._fetching = self._fetching, {}
        return Late(record, phases if isinstance(phases, DevicePhases) else None, fetching)

    def _record(self, record: TickRecord | Late) -> None:
        if isinstance(record, Late):
            self._deferred.append(record)
        else:
            self._write(record)
        if self._deferred:
            land(self._deferred, self._write_late)
        self._unweighed -= 1
        if self._sampling or not self._unweighed:
            self._weigh()
        # what was spent since the tick's end is a part of the next one
        self._cost_ns += self._now() - self._ledger.last

    def _write(self, record: TickRecord) -> None:
        if not math.isfinite(sum(record.metrics.values())):  # type: ignore[arg-type]
            self._spell_out(record)
        line = encode(record)
        if not self._put(line):
            assert self._recorder is not None
            self._recorder.overflow(line, record.tick)
        self.latest = record
        if self._totals is not None:
            for name, ns in record.phases.items():
                self._totals[name] = self._totals.get(name, 0) + ns
        if self._show is not None:
            self._show(record.tick, record.wall_ns, record.metrics, self._ledger.last)

    def _write_late(self, record: TickRecord) -> None:
        newest = self.latest
        self._write(record)
        if newest is not None and newest.tick > record.tick:  # it did not wait for a device
            self.latest = newest

    def _spell_out(self, record: TickRecord) -> None:
        for name in spell_out(record):
            if name not in self._not_finite:
                self._not_finite.add(name)
                self.event("not finite", metric=name, value=record.metrics[name])

    def _weigh(self) -> None:
        """Measure phases on fewer ticks, or on more, by what they cost; on this one or not."""
        if not self._unweighed:
            entered, self._entered = self._ledger.entered - self._entered, self._ledger.entered
            if self._budget.weigh(entered * self._cost_of_phase, self._ledger.last):
                self.event("sampling", every=self._budget.every)
            self._unweighed = WINDOW
        self._sampling = self._budget.every > 1
        # no period that an evaluation or a checkpoint may fall in with
        self._measured = self.tick * _SCATTER % 2**32 < 2**32 // self._budget.every
        self.phase = self._ledger.phases.__getitem__ if self._measured else _unmeasured


def _unmeasured(name: str) -> AbstractContextManager[None]:
    return _NO_PHASE


def nowhere(line: bytes) -> bool:
    """Where lines go of a clock that is not open."""
    return True


def not_entered() -> ConfigError:
    """What a clock says that is not open."""
    return ConfigError("a clock must be entered before it records", fix="with Clock(...) as clock:")
