"""The running tick: its phases, its metrics, and its record when it ends.

It runs on the training thread at every tick.
"""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from metronorm.clock.column_names import Names
from metronorm.clock.device import Device, Pending, fetcher, find_device
from metronorm.clock.device_ledger import DeviceLedger, DevicePhases
from metronorm.clock.metric_values import check_one_element, plain_number
from metronorm.clock.other_threads import OtherThreads
from metronorm.clock.overhead_budget import WINDOW, Budget
from metronorm.clock.pending_records import Late, land
from metronorm.clock.phase_accounts import Pauses, all_plain
from metronorm.clock.phase_timer import Ledger, Phase
from metronorm.errors import ConfigError
from metronorm.store.schema import LARGEST, TickRecord, spell_out
from metronorm.store.tape import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.clock.attempt_writer import Recorder

_log = logging.getLogger("metronorm")

_SCATTER = 2654435761  # 2**32 over the golden ratio (Knuth, The Art of Computer Programming 6.4)
_TRIALS = 100
_TRIAL = {"loss": 1.0, "tokens": 1, "learning_rate": 1.0, "gradient_norm": 1.0}
LONG_PAUSE_NS = 10_000_000  # of the garbage collector, to be an event


class _NoPhase(contextlib.nullcontext[None]):
    def enter(self) -> None: ...
    def leave(self) -> None: ...


_NO_PHASE = _NoPhase()


class Ticking:
    """One tick after the other.

    Args:
        now: a monotonic clock in integer nanoseconds.
        device: whose time phases are measured in; None: the host's, until an accelerator is used.
        budget: share of a tick that its phases may cost.
    """

    phase: Callable[[str], Phase]
    """A named stretch of the tick: `with clock.phase("forward"):`.

    Time in a phase between two loops (an evaluation after an epoch) counts to the tick before it,
    or to the first tick if there is none before. Phases of other threads do not count.
    """

    def __init__(self, *, now: Callable[[], int], device: Device | None, budget: float) -> None:
        self._tick = 0
        self._newest: int | None = None  # of the ticks on record
        self._in_tick = False
        self._between = True  # what is logged now is no running tick's; nor is there a tick to come
        self.latest: TickRecord | None = None  # of the newest tick on record
        self.now = now
        self._epoch = time.time_ns() - now()
        self._device = device
        self._others = OtherThreads(self.event)
        # not by `now`: a reading of that may mean something to whoever brought it
        self._pauses = Pauses(time.perf_counter_ns, LONG_PAUSE_NS)
        self._pauses_epoch = time.time_ns() - time.perf_counter_ns()
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
        self._closed = self._idle = self._has_refused = False
        self._put: Callable[[bytes], bool] = self._refuse
        self._show: Callable[..., None] | None = None

    @property
    def tick(self) -> int:
        """The number of the tick that runs, or of the last one; the first is 1.

        Set it to count on from another number: to the ticks that are done, before a loop or
        `begin_tick`, or to the number of the tick that runs.

        Raises:
            ConfigError: when it is set to what is no integer of 64 bits, or back to a tick that is
                on record.
        """
        return self._tick

    @tick.setter
    def tick(self, value: int) -> None:
        self._tick = self._check_tick(value, self._in_tick)

    def _check_tick(self, value: int, in_tick: bool) -> int:
        try:
            tick = operator.index(value)
        except TypeError:
            tick = LARGEST
        if not -LARGEST <= tick < LARGEST:
            raise ConfigError("a tick must be an integer of 64 bits", got=repr(value))
        if self._newest is not None and tick < self._newest + in_tick:
            raise ConfigError(
                "a clock must not count back: each tick has one record",
                got=f"{tick} after tick {self._newest}",
                fix="close this clock; Clock(directory, resume=True) begins another attempt, which "
                "may count from an earlier tick",
            )
        return tick

    def log(self, /, **metrics: Any) -> None:
        """Put numbers on the tick's record; of two of the same name, the last one holds.

        Takes Python numbers and what `float` takes, but text: tensors of one element, NumPy
        scalars, Decimals, Fractions. A value that NumPy has masked is NaN. A tensor on an
        accelerator is not waited for: its value is copied while training goes on, and the tick's
        record is written when it has arrived, a few ticks later. `loss` and `tokens` are shown in
        the bar.

        Between two loops, and between `end_tick` and `begin_tick`, they belong to the tick before:
        an event `between` holds them at once, and readers put them into that tick's row. Before
        the first tick they are its own.

        Raises:
            ConfigError: not one number, or a name that cannot be a column.
        """
        self._logged += 1
        fetching = None
        if not all_plain(metrics, self._names.known):
            for name in self._names.check(metrics):
                del metrics[name]
            if not all_plain(metrics, self._names.known):
                fetching = self._convert(metrics)
        if self._between:
            self._log_between(metrics, fetching or {})
            return
        if self._fetching:
            for name in metrics.keys() & self._fetching.keys():  # logged again
                del self._fetching[name]
        if fetching:
            self._fetching |= fetching
        if self._metrics:
            self._metrics.update(metrics)
        else:
            self._metrics = metrics

    def _log_between(self, metrics: dict[str, Any], fetching: dict[str, Pending]) -> None:
        raise not_entered()

    def _write_after(self, metrics: dict[str, Any], fetching: dict[str, Pending]) -> None:
        raise not_entered()

    def _convert(self, metrics: dict[str, Any]) -> dict[str, Pending]:
        begin = self.now()
        fetching = {}
        for name, value in metrics.items():
            fetch = fetcher(value, self._device)
            if fetch is None:
                metrics[name] = plain_number(name, value)
            else:
                check_one_element(name, value)
                fetching[name] = fetch(value)
                metrics[name] = None  # keeps its place
        self._cost_ns += self.now() - begin
        return fetching

    def arrive(self, *, waited_ns: int = 0) -> None:
        """This rank has its gradients and enters the collective that waits for all ranks.

        Said several times in a tick, the last one holds; `waited_ns` is what it spent waiting for
        other ranks in the tick before.
        """
        self._arrival = self.now() - self._ledger.last - int(waited_ns)

    def event(self, name: str, /, **fields: Any) -> None:
        """Put something that happened on record, with the tick it happened in; from any thread."""
        if self._closed:
            self._refuse()
            return
        if self._recorder is None:
            raise not_entered()
        self._recorder.event(name, **fields)

    def _refuse(self, line: bytes = b"") -> bool:
        """Where lines go of a clock that is closed."""
        if not (self._idle or self._has_refused):
            self._has_refused = True
            _log.warning("a clock is closed: what is given to it now is not recorded")
        return True

    def _calibrate(self) -> None:
        """What a phase and a call of `log` cost here: to measure each one would cost as much."""
        self._cost_of_phase = self._try_phase(self._new_ledger(self._device))
        begin = self.now()
        for _ in range(_TRIALS):
            self.log(**_TRIAL)
        self._cost_of_log = (self.now() - begin) // _TRIALS
        self._metrics, self._names, self._logged = {}, Names(), 0

    def _try_phase(self, ledger: Ledger | DeviceLedger) -> int:
        begin = self.now()
        for _ in range(_TRIALS):
            with ledger.phases["trial"]:
                pass
        return (self.now() - begin) // _TRIALS

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
            self._write_after({}, {})
            self._cost_ns += self._ledger.entered * self._cost_of_phase
            self._cost_of_phase = self._try_phase(self._new_ledger(device))
            self._use_ledger(self._new_ledger(device))
            self._entered = 0

    def _new_ledger(self, device: Device | None) -> Ledger | DeviceLedger:
        if device is None:
            return Ledger(self.now, self._others)
        return DeviceLedger(self.now, device, self._others)

    def _use_ledger(self, ledger: Ledger | DeviceLedger) -> None:
        self._ledger = ledger
        self.phase = ledger.phases.__getitem__

    def _end(self) -> TickRecord | Late:
        ledger = self._ledger
        wall_ns, phases = ledger.close()
        if not self._measured:
            phases = {}
        metrics, self._metrics = self._metrics, {}
        gc_ns = self._pauses.take()
        if gc_ns >= LONG_PAUSE_NS:
            self._tell_pauses()
        cost_ns = (
            self._cost_ns + ledger.entered * self._cost_of_phase + self._logged * self._cost_of_log
        )
        record = TickRecord(
            self._tick,
            self._epoch + ledger.last,
            wall_ns,
            self._beats,
            phases if type(phases) is dict else {},
            metrics,
            cost_ns - self._cost_on_record,
            self._arrival,
            gc_ns,
        )
        self._cost_on_record = cost_ns
        self._arrival = None
        if not self._fetching and type(phases) is dict:
            return record
        fetching, self._fetching = self._fetching, {}
        return Late(record, phases if isinstance(phases, DevicePhases) else None, fetching)

    def _tell_pauses(self) -> None:
        for generation, since, duration_ns in self._pauses.take_longest():
            self.event(
                "gc",
                generation=generation,
                start_ns=self._pauses_epoch + since,
                duration_ns=duration_ns,
            )

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
        self._cost_ns += self.now() - self._ledger.last

    def _write(self, record: TickRecord) -> None:
        if not math.isfinite(sum(record.metrics.values())):  # type: ignore[arg-type]
            self._spell_out(record)
        line = encode(record)
        if not self._put(line):
            assert self._recorder is not None
            self._recorder.overflow(line, record.tick)
        self.latest = record
        if self._totals is not None:
            self._add_to_totals(record)
        if self._show is not None:
            self._show(record.tick, record.wall_ns, record.metrics, self._ledger.last)

    def _add_to_totals(self, record: TickRecord) -> None:
        if self._totals is not None:
            for name, ns in record.phases.items():
                self._totals[name] = self._totals.get(name, 0) + ns

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
        self._measured = self._tick * _SCATTER % 2**32 < 2**32 // self._budget.every
        self._choose_phases()

    def _choose_phases(self) -> None:
        """Those between two loops are always measured."""
        measured = self._measured or not self._ledger.counting
        self.phase = self._ledger.phases.__getitem__ if measured else _unmeasured


def _unmeasured(name: str) -> Phase:
    return _NO_PHASE


def not_entered() -> ConfigError:
    """What a clock says that is not open."""
    return ConfigError("a clock must be entered before it records", fix="with Clock(...) as clock:")
