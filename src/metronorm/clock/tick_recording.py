"""The running tick: the numbers that are logged in it, and the way of its record to the ring.

This code runs on the training thread at every tick.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec import structs

from metronorm.clock.between import event_fields, record_between
from metronorm.clock.column_names import Names
from metronorm.clock.device_ledger import DevicePhases
from metronorm.clock.garbage_pauses import LONG_PAUSE_NS, GarbagePauses
from metronorm.clock.metric_values import convert
from metronorm.clock.other_threads import OtherThreads
from metronorm.clock.pending_records import PendingRecord, write_all, write_ready
from metronorm.clock.phase_accounts import all_plain
from metronorm.clock.phase_sampling import TRIALS, PhaseSampling
from metronorm.errors import ConfigError
from metronorm.store.schema import TickRecord, replace_non_finite
from metronorm.store.tape import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.clock.attempt_writer import Recorder
    from metronorm.clock.device import Device, PendingValue
    from metronorm.clock.phase_timer import Phase

_log = logging.getLogger("metronorm")

_TRIAL = {"loss": 1.0, "tokens": 1, "learning_rate": 1.0, "gradient_norm": 1.0}


class TickRecording:
    """Collects the numbers of the running tick, and writes its record when it ends.

    The way of a number: `log` puts it into `_metrics` (and its copy from a device into
    `_fetching`); `end` makes a `TickRecord` of it; `record` gives a complete record to `_write`,
    and lets one with missing values wait in `pending`; `_write` encodes the record as a line and
    puts the line into the ring.

    Which tick a number belongs to depends on two attributes that `TickLoop` sets:

    | `between` | `unwritten` | `log` puts the number |
    | --- | --- | --- |
    | false | | into the running tick, or into the first tick |
    | true | None | into an event `between`, for the newest tick |
    | true | a record | into the same, after `unwritten` was recorded as the newest tick |

    `unwritten` is the record of a loop body that was left: by `break`, which ends a tick, or by an
    exception, which does not. The generator cannot see which; it is known later.

    Args:
        now: a monotonic clock in integer nanoseconds.
        device: the accelerator that measures phases; None: the host.
        budget: part of a tick that measuring its phases may cost.
        publish: gets the function that `clock.phase` is from now on.
    """

    def __init__(
        self,
        *,
        now: Callable[[], int],
        device: Device | None,
        budget: float,
        publish: Callable[[Callable[[str], Phase]], None],
    ) -> None:
        self._now, self._device = now, device
        self._epoch_ns = time.time_ns() - now()
        self.tick = 0
        self.beats = 1
        self.between = True
        self.unwritten: TickRecord | PendingRecord | None = None
        self.newest: int | None = None  # the number of the newest recorded tick
        self.latest: TickRecord | None = None  # the newest complete record
        self.garbage = GarbagePauses(self.event)
        self.sampling = PhaseSampling(
            now=now,
            device=device,
            budget=budget,
            counts=OtherThreads(self.event),
            event=self.event,
            publish=publish,
        )
        self._arrival_ns: int | None = None
        self._names = Names()
        self._metrics: dict[str, Any] = {}
        self._fetching: dict[str, PendingValue] = {}
        self._pending: deque[PendingRecord] = deque()
        self._not_finite: set[str] = set()
        self._totals: dict[str, int] | None = None
        # what recording cost: in all, and how much of it is in records already
        self._cost_ns = self._recorded_cost_ns = 0
        self._cost_of_log_ns = self._logged = 0
        self._recorder: Recorder | None = None
        self.closed = self._has_warned = False
        self.idle = False  # in a child of `fork` or in a copy: closed without a warning
        self._put: Callable[[bytes], bool] = self.refuse
        self.show: Callable[..., None] | None = None  # the progress bar's

    # --- life -----------------------------------------------------------------------------------

    def open(self, recorder: Recorder, log: Callable[..., None]) -> None:
        """Begin to record.

        Args:
            recorder: takes lines of ticks and events.
            log: `Clock.log`, to find out what a call costs here; to measure each call would cost
                as much again.
        """
        self._recorder = recorder
        # past the recorder and its channel: one call for each tick, not three
        self._put = recorder.ticks.ring.put
        self.between = False
        self.sampling.calibrate()
        begin = self._now()
        for _ in range(TRIALS):
            log(**_TRIAL)
        self._cost_of_log_ns = (self._now() - begin) // TRIALS
        self._metrics, self._names, self._logged = {}, Names(), 0
        self.garbage.start()

    def time_ns(self) -> int:
        """Nanoseconds since 1970, by the clock's own time."""
        return self._epoch_ns + self._now()

    def close(self) -> None:
        """Record nothing more; later values are refused with a warning."""
        self.closed = self.between = True
        self._put = self.refuse

    def detach_after_fork(self) -> None:
        """Record nothing more, and do not warn: the clock belongs to the parent process."""
        self.idle = True
        self.close()
        self.garbage.stop()

    def check_open(self) -> None:
        """Raise ConfigError if the clock was never opened."""
        if self._recorder is None and not self.closed:
            raise clock_not_open()

    def refuse(self, line: bytes = b"") -> bool:
        """Drop a line of a closed clock, with one warning; True, as if the ring had taken it."""
        if not (self.idle or self._has_warned):
            self._has_warned = True
            _log.warning("a clock is closed: what is given to it now is not recorded")
        return True

    def event(self, name: str, /, **fields: Any) -> None:
        """Record an event of the running tick; from any thread."""
        if self.closed:
            self.refuse()
            return
        if self._recorder is None:
            raise clock_not_open()
        self._recorder.event(name, **fields)

    # --- the numbers of a tick ------------------------------------------------------------------

    def log(self, metrics: dict[str, Any]) -> None:
        """Put values by name on the record of the running tick; `metrics` is changed.

        Raises:
            ConfigError: a value is not one number, or a name cannot be a column.
        """
        self._logged += 1
        fetching = None
        known = self._names.known
        if not all_plain(metrics, known):
            for name in self._names.check(metrics):
                del metrics[name]
            if not all_plain(metrics, known):
                begin = self._now()
                fetching = convert(metrics, self._device)
                self._cost_ns += self._now() - begin
        if self.between:
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

    def arrive(self, waited_ns: int) -> None:
        """Put the time since the begin of the tick, less `waited_ns`, on its record."""
        self._arrival_ns = self._now() - self.sampling.ledger.last - waited_ns

    # --- the record of a tick -------------------------------------------------------------------

    def end(self) -> TickRecord | PendingRecord:
        """End the running tick; its record, which `record` takes."""
        sampling = self.sampling
        ledger = sampling.ledger
        wall_ns, phases = ledger.close()
        if not sampling.measured:
            phases = {}
        metrics, self._metrics = self._metrics, {}
        gc_ns = self.garbage.take()
        if gc_ns >= LONG_PAUSE_NS:
            self.garbage.report_long()
        cost_ns = (
            self._cost_ns
            + ledger.entered * sampling.cost_of_phase_ns
            + self._logged * self._cost_of_log_ns
        )
        record = TickRecord(
            self.tick,
            self._epoch_ns + ledger.last,
            wall_ns,
            self.beats,
            phases if type(phases) is dict else {},
            metrics,
            cost_ns - self._recorded_cost_ns,
            self._arrival_ns,
            gc_ns,
        )
        self._recorded_cost_ns = cost_ns
        self._arrival_ns = None
        if not self._fetching and type(phases) is dict:
            return record
        fetching, self._fetching = self._fetching, {}
        on_device = phases if isinstance(phases, DevicePhases) else None
        return PendingRecord(record, on_device, fetching)

    def record(self, record: TickRecord | PendingRecord) -> None:
        """Write the record of a tick that has ended, now or when its values have arrived."""
        if isinstance(record, PendingRecord):
            self._pending.append(record)
        else:
            self._write(record)
        if self._pending:
            write_ready(self._pending, self._write_late)
        sampling = self.sampling
        sampling.ticks_to_review -= 1
        if sampling.is_active or not sampling.ticks_to_review:
            sampling.review(self.tick)
        self.newest = record.tick
        # the time since the end of the tick is a part of the next tick
        self._cost_ns += self._now() - sampling.ledger.last

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
        if self.show is not None:
            self.show(record.tick, record.wall_ns, record.metrics, self.sampling.ledger.last)

    def _write_late(self, record: TickRecord) -> None:
        """Write a record that has waited, while newer ones were written."""
        if not record.beats:
            self._write_between(record)
            return
        newest = self.latest
        self._write(record)
        if newest is not None and newest.tick > record.tick:
            self.latest = newest

    def _spell_out(self, record: TickRecord) -> None:
        """Make text of NaN and infinities, for JSON; the first of each metric is an event."""
        for name in replace_non_finite(record):
            if name not in self._not_finite:
                self._not_finite.add(name)
                self.event("not finite", metric=name, value=record.metrics[name])

    @property
    def totals(self) -> dict[str, int]:
        """Nanoseconds by phase, over all ticks since the first call; from any thread."""
        if self._totals is None:
            self._totals = {}
        return dict(self._totals)

    def _add_to_totals(self, record: TickRecord) -> None:
        if self._totals is not None:
            for name, ns in record.phases.items():
                self._totals[name] = self._totals.get(name, 0) + ns

    # --- between ticks --------------------------------------------------------------------------

    @property
    def has_ticks(self) -> bool:
        """Whether a tick has ended, so that there is one before whatever comes now."""
        return self.newest is not None or self.unwritten is not None

    def _log_between(self, metrics: dict[str, Any], fetching: dict[str, PendingValue]) -> None:
        if self.closed:
            self.refuse()
            return
        if self._recorder is None:
            raise clock_not_open()
        self.write_left()
        self._record_between(metrics, fetching)

    def record_phases(self) -> None:
        """Record phases since the last tick; phases before the first tick are that tick's own."""
        if self.has_ticks and not self.closed:
            self._record_between({}, {})

    def _record_between(self, metrics: dict[str, Any], fetching: dict[str, PendingValue]) -> None:
        """Record values that were logged after a tick, and the phases since then."""
        begin = self._now()
        ledger = self.sampling.ledger
        tick = self.newest if self.unwritten is None else self.unwritten.tick
        pending = record_between(
            self.tick if tick is None else tick,
            self._epoch_ns + begin,
            {} if ledger.counting else ledger.close()[1],
            metrics,
            fetching,
        )
        if pending is not None:
            self._pending.append(pending)  # behind older ones, so that they stay in order
            write_ready(self._pending, self._write_late)
        if ledger.counting:
            self._cost_ns += self._now() - begin

    def _write_between(self, record: TickRecord) -> None:
        self._write_event("between", record)
        self._add_to_totals(record)
        latest = self.latest
        if latest is not None and latest.tick == record.tick:
            self.latest = structs.replace(latest, metrics=latest.metrics | record.metrics)

    def _write_event(self, name: str, record: TickRecord) -> None:
        self._spell_out(record)
        fields = event_fields(record)
        if fields and self._recorder is not None:
            self._recorder.event_of(record.tick, record.time_ns, name, fields)

    def choose_device(self) -> None:
        """Between two loops: measure phases in the time of an accelerator that is in use now."""
        device = self.sampling.new_device()
        if device is not None:
            self._record_between({}, {})
            self._cost_ns += self.sampling.phases_cost_ns
            self.sampling.use_device(device)

    def write_left(self) -> None:
        """Record `unwritten` if no exception is on its way: then `break` left the loop body."""
        if self.unwritten is not None and sys.exc_info()[0] is None:
            self.write_unwritten()

    def write_unwritten(self) -> None:
        """Record `unwritten` as a tick."""
        if self.unwritten is not None:
            unwritten, self.unwritten = self.unwritten, None
            self.record(unwritten)

    def write_unfinished(self, patience_seconds: float | None) -> None:
        """Record the values of `unwritten` as an event `unfinished`: it is no tick.

        Args:
            patience_seconds: how long to wait for a device at most; None: no end.
        """
        unwritten, self.unwritten = self.unwritten, None
        if isinstance(unwritten, PendingRecord):
            write_all(deque([unwritten]), self._report_unfinished, patience_seconds)
        elif unwritten is not None:
            self._report_unfinished(unwritten)

    def _report_unfinished(self, record: TickRecord) -> None:
        if record.metrics:
            self._write_event("unfinished", record)

    def write_rest(self, patience_seconds: float | None) -> None:
        """At the end: record values and phases that belong to no finished tick."""
        self.garbage.stop()
        self.garbage.report_long()
        self.write_unfinished(patience_seconds)
        self.sampling.ledger.pause()
        metrics, self._metrics, fetching, self._fetching = self._metrics, {}, self._fetching, {}
        self._record_between(metrics, fetching)

    def write_pending(self, patience_seconds: float | None) -> None:
        """At the end: write the records that wait for a device."""
        write_all(self._pending, self._write_late, patience_seconds)


def clock_not_open() -> ConfigError:
    """The error of a clock that was never opened."""
    return ConfigError("a clock must be entered before it records", fix="with Clock(...) as clock:")
