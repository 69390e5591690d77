"""The clock: one record per tick, on its way to the disk when the tick ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from metronorm.clock.budget import DEFAULT, WINDOW, Budget
from metronorm.clock.deferred import Late, land
from metronorm.clock.device import Device, Pending, fetcher, find_device
from metronorm.clock.device_ledger import DeviceLedger, DevicePhases
from metronorm.clock.ledger import Ledger
from metronorm.clock.names import Names
from metronorm.clock.progress import Progress
from metronorm.clock.ranks import find_place
from metronorm.clock.record import (
    TickRecord,
    check_one_element,
    plain_number,
    spell_out,
)
from metronorm.clock.recorder import Recorder
from metronorm.clock.run import create_run, new_attempt, read_run_info
from metronorm.clock.stall import StallWatch
from metronorm.clock.tape import encode
from metronorm.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType


T = TypeVar("T")

_NOTHING: Any = object()
_TRIALS = 100
_TRIAL = {"loss": 1.0, "tokens": 1, "learning_rate": 1.0, "gradient_norm": 1.0}
_NO_PHASE = contextlib.nullcontext()
_OPEN: weakref.WeakSet[Clock] = weakref.WeakSet()


class Clock:
    """Records every tick of a training loop in a run directory.

    Args:
        directory: the run. New unless `resume`; parents are made. The ranks of one launch share it.
        config: what the run was configured with: plain JSON values.
        resume: continue the run that is there, as a new attempt.
        name: what to call the run; the directory's name by default.
        progress: show a bar on standard error.
        device: whose time phases are measured in; None: of the accelerator that torch uses when a
            loop begins, else of the host.
        budget: share of a tick that recording may cost; beyond it phases are measured on some
            ticks only, and an event says so. 0.001 is 0.1 %.
        stall: when ticks that stay away are a stall, and whom to tell; None: never.
        now: a monotonic clock in integer nanoseconds.

    Raises:
        RunError: the directory holds a run (without `resume`) or none (with it), or is not
            writable.

    Recording never stops the loop: a tick that the disk does not take waits in memory, one that
    finds no room there is dropped, counted in `dropped`, and told of. In a child of `fork`, such
    as a data loader's worker, the clock does nothing.
    """

    phase: Callable[[str], AbstractContextManager[None]]
    """A named stretch of the tick: `with clock.phase("forward"):`.

    Time in a phase between two loops (an evaluation after an epoch) counts to the next tick.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        config: dict[str, Any] | None = None,
        resume: bool = False,
        name: str | None = None,
        progress: bool = True,
        device: Device | None = None,
        budget: float = DEFAULT,
        stall: StallWatch | None = StallWatch(),  # noqa: B008 - frozen
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.directory = Path(directory)
        self.tick = 0
        self.latest: TickRecord | None = None  # of the newest tick on record
        self._config = config or {}
        self._resume = resume
        self._name = name
        self._progress = progress
        self._device = device
        self._stall = stall
        self._now = now
        self._epoch = time.time_ns() - now()
        self._beats = 1
        self._stopping = False
        self._closed = False
        self._metrics: dict[str, Any] = {}
        self._fetching: dict[str, Pending] = {}
        self._names = Names()
        self._told: set[str] = set()
        self._totals: dict[str, int] | None = None
        self._arrival: int | None = None
        self._unwritten: TickRecord | Late | None = None
        self._deferred: deque[Late] = deque()
        self._recorder: Recorder | None = None
        self._put: Callable[[bytes], bool] = _forgotten
        self._bar = Progress(enabled=False)
        self._show: Callable[..., None] | None = None
        self._budget = Budget(budget)
        self._measured, self._sampling = True, False
        self._cost_ns = self._cost_on_record = self._logged = 0
        self._use_ledger(DeviceLedger(now, device) if device else Ledger(now))
        self._cost_of_phase, self._cost_of_log = 0, 0

    # --- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(error)

    def open(self) -> Self:
        """What entering `with` does, for callbacks: claim an attempt and begin to record."""
        place = find_place()
        self.rank = place.rank
        if self._resume:
            info = read_run_info(self.directory)
        else:
            info = create_run(
                self.directory, name=self._name, config=self._config, launch=place.launch
            )
        try:
            self.attempt = new_attempt(self.directory, place)
            self._recorder = Recorder(
                self.directory,
                identity=info.id,
                attempt=self.attempt,
                rank=self.rank,
                tick=lambda: self.tick,
                time_ns=lambda: self._epoch + self._now(),
                stall=self._stall,
            )
        except OSError as error:
            raise RunError(
                "a run's directory must be writable",
                got=f"{self.directory}: {error.strerror or error}",
            ) from None
        self._put = self._recorder.ticks.ring.put
        self._calibrate()
        _OPEN.add(self)
        return self

    def _calibrate(self) -> None:
        """What a phase and a call of `log` cost here: to measure each one would cost as much."""
        trial = Ledger(self._now)
        begin = self._now()
        for _ in range(_TRIALS):
            with trial.phases["trial"]:
                pass
        middle = self._now()
        for _ in range(_TRIALS):
            self.log(**_TRIAL)
        self._cost_of_phase = (middle - begin) // _TRIALS
        self._cost_of_log = (self._now() - middle) // _TRIALS
        self._metrics, self._names, self._logged = {}, Names(), 0

    def close(self, error: BaseException | None = None) -> None:
        """What leaving `with` does: write what is not written yet; `error` ended the run."""
        if self._closed or self._recorder is None:
            return
        if error is None:
            self._write_pending()
        land(self._deferred, self._write, wait=True)
        told = {} if error is None else {"error": type(error).__name__, "message": str(error)}
        self.event("end", **told)
        self._closed = True
        self._put = _forgotten
        self._bar.close()
        self._recorder.close()

    def forget(self) -> None:
        """Record nothing more: what a child of `fork` does, whose parent has the clock."""
        if self._recorder is not None:
            self._recorder.forget()
        self._put = _forgotten
        self._closed = True
        self._bar = Progress(enabled=False)

    @property
    def dropped(self) -> int:
        """Records that are lost, as the disk did not take them in time."""
        return self._recorder.dropped if self._recorder else 0

    @property
    def latest_resources(self) -> dict[str, float]:
        """The newest sample of the machine; other threads may look at it."""
        return self._recorder.latest_resources if self._recorder else {}

    @property
    def totals(self) -> dict[str, int]:
        """Nanoseconds by phase, over all ticks since this was first asked; from any thread."""
        if self._totals is None:
            self._totals = {}
        return dict(self._totals)

    # --- the loop -------------------------------------------------------------------------------

    @overload
    def ticks(
        self, loader: Iterable[T], *, total: int | None = ..., initial: int | None = ...
    ) -> Iterator[T]: ...
    @overload
    def ticks(
        self,
        loader: Iterable[T],
        *,
        micro_batches: int,
        total: int | None = ...,
        initial: int | None = ...,
    ) -> Iterator[list[T]]: ...
    def ticks(
        self,
        loader: Iterable[T],
        *,
        micro_batches: int | None = None,
        total: int | None = None,
        initial: int | None = None,
    ) -> Iterator[T] | Iterator[list[T]]:
        """Iterate `loader`, one tick per turn of the loop body; the wait is the phase `data`.

        Args:
            loader: any iterable of batches. A batch with an attribute `beats`, such as a window of
                `metronorm.optim`, is recorded as that many.
            micro_batches: hand over a window, a list of that many batches, at each turn; the last
                window of a loader may be shorter.
            total: stop after this tick (counted from the start of the run).
            initial: ticks already done, when a run resumes from a checkpoint.

        A tick ends, and is recorded, when the body of the loop does. A body left by an exception
        is no tick; one left by `break` is, and is recorded when the next loop begins or the clock
        closes: `stop()` ends a loop without that delay.

        Raises:
            ConfigError: `micro_batches` is not positive, or the clock is not entered.
        """
        if micro_batches is not None and micro_batches < 1:
            raise ConfigError("micro_batches must be at least 1", got=str(micro_batches))
        if self._recorder is None:
            raise _not_entered()
        return self._iterate(loader, micro_batches, total, initial)

    def _iterate(
        self, loader: Iterable[Any], size: int | None, total: int | None, initial: int | None
    ) -> Iterator[Any]:
        self._write_pending()
        self._beats = 1
        self._stopping = False
        if initial is not None:
            self.tick = initial
        self._bar.close()
        if self._progress and self.rank == 0:
            self._bar = Progress(initial=self.tick, total=self._total(loader, size, total))
            self._show = self._bar.show
        self._choose_ledger()
        ledger = self._ledger
        data = ledger.phases["data"]
        ledger.begin()
        with data:
            source = iter(loader)
        while total is None or self.tick < total:
            with data:
                if size is None:
                    taken = next(source, _NOTHING)
                    self._beats = getattr(taken, "beats", 1)
                else:
                    taken = list(itertools.islice(source, size))
                    self._beats = len(taken)
                    if not taken:
                        taken = _NOTHING
            if taken is _NOTHING:
                break
            self.tick += 1
            try:
                yield taken
            except GeneratorExit:
                # `break`, or an error on its way out of the body: only the clock's own exit
                # knows which, so the record waits for it.
                self._unwritten = self._end()
                ledger.pause()
                raise
            self._record(self._end())
            if self._stopping:
                break
        ledger.pause()
        ledger.close()  # the wait that found the loader empty is part of no tick

    def begin_tick(self) -> None:
        """For callbacks: the next tick runs from now on.

        Time since `end_tick` counts to it too; time before the first tick, or since `pause`, does
        not. Set `tick` before, to go on counting where a run was resumed.
        """
        if self._recorder is None:
            raise _not_entered()
        if self.latest is None:
            self._choose_ledger()
        self._ledger.begin()
        self.tick += 1

    def end_tick(self, *, beats: int = 1) -> None:
        """For callbacks: the running tick is over; it is recorded."""
        self._beats = beats
        self._record(self._end())

    def pause(self) -> None:
        """For callbacks: time until the next `begin_tick` is part of no tick."""
        self._ledger.pause()
        self._ledger.close()

    def _choose_ledger(self) -> None:
        """Between two loops the time may become that of an accelerator."""
        device = self._device or find_device()
        if device and not isinstance(self._ledger, DeviceLedger):
            self._use_ledger(DeviceLedger(self._now, device))

    def _use_ledger(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.phase = ledger.phases.__getitem__

    def _total(self, loader: Iterable[Any], size: int | None, total: int | None) -> int | None:
        if total is not None:
            return total
        length = getattr(loader, "__len__", None)
        if length is None:
            return None
        try:
            return self.tick + -(-int(length()) // (size or 1))
        except TypeError:  # torch's loader over an iterable data set has a length that raises
            return None

    # --- the record of a tick -------------------------------------------------------------------

    def _end(self) -> TickRecord | Late:
        ledger = self._ledger
        wall_ns, phases = ledger.close()
        metrics, self._metrics = self._metrics, {}
        cost_ns = (
            self._cost_ns + ledger.entered * self._cost_of_phase + self._logged * self._cost_of_log
        )
        record = TickRecord(
            self.tick,
            self._epoch + ledger.last,
            wall_ns,
            self._beats,
            phases if type(phases) is dict and self._measured else {},
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
            land(self._deferred, self._write)
        if self._sampling or not self.tick % WINDOW:
            self._weigh()
        # what was spent since the tick's end is a part of the next one
        self._cost_ns += self._now() - self._ledger.last

    def _write(self, record: TickRecord) -> None:
        line = encode(record)
        if b"null" in line:  # what JSON makes of a float that is not finite
            line = self._spell_out(record)
        if not self._put(line):
            assert self._recorder is not None
            self._recorder.overflow(line, record.tick)
        self.latest = record
        if self._totals is not None:
            for name, ns in record.phases.items():
                self._totals[name] = self._totals.get(name, 0) + ns
        if self._show is not None:
            self._show(record.tick, record.wall_ns, record.metrics, self._ledger.last)

    def _spell_out(self, record: TickRecord) -> bytes:
        for name in spell_out(record):
            if name not in self._told:
                self._told.add(name)
                self.event("not finite", metric=name, value=record.metrics[name])
        return encode(record)

    def _weigh(self) -> None:
        """Measure phases on fewer ticks, or on more, by what they cost; on this one or not."""
        if not self.tick % WINDOW and self._budget.weigh(self._cost_on_record, self._ledger.last):
            self.event("sampling", every=self._budget.every)
        self._sampling = self._budget.every > 1
        self._measured = self.tick % self._budget.every == 0
        self.phase = self._ledger.phases.__getitem__ if self._measured else _unmeasured

    def _write_pending(self) -> None:
        if self._unwritten is not None:
            pending, self._unwritten = self._unwritten, None
            self._record(pending)

    # --- what is said inside a tick ---------------------------------------------------------------

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
        if not self._names.known.issuperset(metrics):
            for name in self._names.check(metrics):
                del metrics[name]
        for value in metrics.values():
            if type(value) is not float and type(value) is not int:
                self._convert(metrics)
                break
        if self._metrics:
            self._metrics.update(metrics)
            for name in metrics.keys() & self._fetching.keys() if self._fetching else ():
                if metrics[name] is not None:  # said again, on the host
                    del self._fetching[name]
        else:
            self._metrics = metrics

    def _convert(self, metrics: dict[str, Any]) -> None:
        begin = self._now()
        for name, value in metrics.items():
            fetch = fetcher(value, self._device)
            if fetch is None:
                metrics[name] = plain_number(name, value)
            else:
                check_one_element(name, value)
                self._fetching[name] = fetch(value)
                metrics[name] = None  # keeps its place
        self._cost_ns += self._now() - begin

    def arrive(self) -> None:
        """This rank has its gradients and enters the collective that waits for all ranks.

        Said several times in a tick, the last one holds.
        """
        self._arrival = self._now() - self._ledger.last

    def stop(self) -> None:
        """Let the tick that is running be the last of its loop.

        Other than after `break`, its record is on its way when the loop is over.
        """
        self._stopping = True

    def event(self, name: str, **fields: Any) -> None:
        """Put something that happened on record, with the tick it happened in."""
        if self._recorder is None:
            raise _not_entered()
        if not self._closed:
            self._recorder.event(name, **fields)


def _unmeasured(name: str) -> AbstractContextManager[None]:
    return _NO_PHASE


def _forgotten(line: bytes) -> bool:
    return True


def _not_entered() -> ConfigError:
    return ConfigError("a clock must be entered before it records", fix="with Clock(...) as clock:")


def _forget_all() -> None:
    for clock in list(_OPEN):
        clock.forget()


os.register_at_fork(after_in_child=_forget_all)
