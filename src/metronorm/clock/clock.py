"""The clock: one record per tick, on its way to the disk when the tick ends."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import sys
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from msgspec import structs

from metronorm.clock.attempt_writer import Recorder
from metronorm.clock.between import event_fields, logged_after
from metronorm.clock.metric_values import check_beats
from metronorm.clock.overhead_budget import DEFAULT
from metronorm.clock.pending_records import Late, land, land_all
from metronorm.clock.progress import Progress, last_tick
from metronorm.clock.stall import StallWatch
from metronorm.clock.tick_recording import LONG_PAUSE_NS, Ticking, not_entered
from metronorm.errors import ConfigError, RunError
from metronorm.ranks import find_place
from metronorm.store.owner import Ownership
from metronorm.store.run_directory import RUN_FILE, changes, create_run, new_attempt, read_run_info
from metronorm.store.schema import LARGEST, TickRecord
from metronorm.store.writer import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from metronorm.clock.device import Device, Pending
    from metronorm.clock.hooks import Watch

_log = logging.getLogger("metronorm")

T = TypeVar("T")

_NOTHING: Any = object()
_OPEN: weakref.WeakSet[Clock] = weakref.WeakSet()


class Clock(Ticking):
    """Records every tick of a training loop in a run directory.

    Args:
        directory: the run. New unless `resume`; parents are made. The ranks of one launch share it.
        config: what the run was configured with: plain JSON values, NaN and infinities too.
        resume: continue the run that is there, as a new attempt. It keeps its config and its name;
            what is given otherwise is an event `changed`, and a warning.
        name: what to call the run; the directory's name by default.
        progress: show a bar on standard error.
        device: whose time phases are measured in; None: of the accelerator that torch uses when a
            loop begins, else of the host.
        budget: share of a tick that its phases may cost; beyond it they are measured on some ticks
            only, and an event says so. 0.001 is 0.1 %.
        stall: when ticks that stay away are a stall, and whom to tell; None: never.
        now: a monotonic clock in integer nanoseconds.

    Raises:
        RunError: the directory holds a run (without `resume`) or none (with it), another process
            is writing it, or it is not writable.
        ConfigError: no name of a directory.

    Recording never stops the loop: a tick that the disk does not take waits in memory, one that
    finds no room there is dropped, counted in `dropped`, and told of. In a child of `fork`, such
    as a data loader's worker, the clock does nothing, and so does what arrives of one that was
    copied or pickled. What is given to a clock that is closed is not recorded; it warns once.

    Nothing logged is dropped without a word: what is logged after a tick stands in its row, what is
    logged in one that never ends is an event `unfinished`; see `metronorm.clock.between`.
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
        super().__init__(now=now, device=device, budget=budget)
        self.directory = _absolute(directory)  # whatever the working folder is later
        self._config = config or {}
        self._resume = resume
        self._name = name
        self._progress = progress
        self._stall = stall
        self._stopping = self._looping = False
        self._watch: Watch | None = None
        self._owner: Ownership | None = None
        self._unwritten: TickRecord | Late | None = None
        self._bar = Progress(enabled=False)

    def __reduce__(self) -> tuple[Callable[..., Clock], tuple[Path, int]]:
        return _idle_clock, (self.directory, self.tick)

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

    def claim(self) -> Self:
        """Own the run that is there before `open` does: for who loads for long in between.

        `close` gives it back if it is never opened.

        Raises:
            RunError: another process is writing the run, or its directory is not writable.
        """
        if self._owner is None:
            try:
                self._owner = Ownership(self.directory, find_place().rank)
            except OSError as error:
                raise self._not_writable(error) from None
            _OPEN.add(self)
        return self

    def open(self) -> Self:
        """What entering `with` does, for callbacks: claim an attempt and begin to record."""
        if self._idle:
            return self
        if self._recorder is not None:
            raise ConfigError(
                "a clock is opened once", fix="another Clock(directory, resume=True) goes on"
            )
        place = find_place()
        self.rank = place.rank
        changed: dict[str, Any] = {}
        if self._resume:
            info = read_run_info(self.directory)
            changed = changes(info, name=self._name, config=self._config)
        else:
            info = create_run(self.directory, name=self._name, config=self._config, place=place)
        owner = self._owner
        try:
            if owner is None:
                owner = Ownership(self.directory, place.rank)
            else:
                owner.confirm()
            self.attempt = new_attempt(self.directory, place)
            self._recorder = Recorder(
                self.directory,
                identity=info.id,
                attempt=self.attempt,
                rank=self.rank,
                owner=owner,
                tick=lambda: int(self.tick),
                running=lambda: self._ledger.counting,
                time_ns=lambda: self._epoch + self.now(),
                stall=self._stall,
            )
        except BaseException as error:
            if owner is not None:
                owner.release()
            if not isinstance(error, OSError):
                raise
            raise self._not_writable(error) from None
        if changed:
            self._report(changed)
        self._put = self._recorder.ticks.ring.put
        self._between = False
        self._calibrate()
        gc.callbacks.append(self._pauses.notice)
        _OPEN.add(self)
        return self

    def _report(self, changed: dict[str, Any]) -> None:
        self.event("changed", **changed)
        if self.rank == 0:
            _log.warning(
                "%s is resumed with another %s; %s keeps the first, an event `changed` has both",
                self.directory,
                " and ".join(changed),
                RUN_FILE,
            )

    def close(self, error: BaseException | None = None) -> None:
        """What leaving `with` does: write what is not written yet; `error` ended the run.

        Whatever fails in it is logged, not raised: it must not take the place of `error`.
        """
        if self._recorder is None and self._owner is not None:  # claimed, and never opened
            self._owner.release()
        if self._closed or self._recorder is None:
            return
        # after an error the device may hang, or be broken
        patience = None if error is None else PATIENCE_SECONDS
        with _logging_errors(), contextlib.ExitStack() as steps:  # the last one is done first
            steps.callback(self._recorder.close)
            steps.callback(self._end_recording)
            steps.callback(self._tell_end, error)
            steps.callback(land_all, self._deferred, self._write_late, patience)
            steps.callback(self._write_rest, patience)
            if error is None:
                steps.callback(self._end_loop)
            if self._watch is not None:
                steps.callback(self._watch.remove)  # which ends the tick whose step is done

    def _tell_end(self, error: BaseException | None) -> None:
        told = {}
        if error is not None:
            told["error"] = type(error).__name__
            with contextlib.suppress(Exception):  # its text is made by foreign code
                told["message"] = str(error)
        self.event("end", **told)

    def _end_loop(self) -> None:
        """The body of a loop whose iterator is kept was left by `break`."""
        if self._looping and self._in_tick:
            self._in_tick = False
            self._record(self._end())
            self._newest = self._tick
        self._write_pending()

    def _write_rest(self, patience: float | None) -> None:
        """Put on record what was logged and is of no tick that is over."""
        gc.callbacks.remove(self._pauses.notice)
        self._tell_pauses()
        if self._in_tick:
            self._unwritten = self._end()
        self._write_unfinished(patience)
        self._ledger.pause()
        metrics, self._metrics, fetching, self._fetching = self._metrics, {}, self._fetching, {}
        self._write_after(metrics, fetching)

    def _write_unfinished(self, patience: float | None) -> None:
        """The tick that was left is none: what it logged is an event."""
        pending, self._unwritten = self._unwritten, None
        if isinstance(pending, Late):
            land_all(deque([pending]), self._tell_unfinished, patience)
        elif pending is not None:
            self._tell_unfinished(pending)

    def _tell_unfinished(self, record: TickRecord) -> None:
        if record.metrics:
            self._tell("unfinished", record)

    def _end_recording(self) -> None:
        self._closed = self._between = True
        self._put = self._refuse
        self._bar.close()

    def watch(self, model: Any = None, optimizer: Any = None, loader: Any = None) -> Watch:
        """Record a PyTorch loop that exists, by hooks and without a change to it.

        Ticks are the optimizer's steps; phases are `data`, `forward`, `backward`, `communicate` and
        `update`. Each of the three may be left out; inside `ticks` only the phases are taken.
        See `metronorm.clock.hooks.Watch`, which is also how to take the hooks off again.

        Raises:
            ConfigError: the clock is not entered, or watches already, or cannot watch one of them.
        """
        from metronorm.clock.hooks import Watch

        if self._recorder is None:
            raise not_entered()
        if self._watch is not None and not self._watch.removed:
            raise ConfigError(
                "a clock watches one loop at a time", fix="remove() the watch that there is"
            )
        self._watch = Watch(self, model, optimizer, loader)
        return self._watch

    def forget(self) -> None:
        """Record nothing more: what a child of `fork` does, whose parent has the clock."""
        if self._recorder is not None:
            self._recorder.forget()
        elif self._owner is not None:
            self._owner.detach_after_fork()
        self._be_idle()

    def _be_idle(self) -> None:
        self._put = self._refuse
        self._closed = self._idle = self._between = True
        self._progress = self._looping = self._in_tick = False
        self._bar = Progress(enabled=False)
        if self._pauses.notice in gc.callbacks:
            gc.callbacks.remove(self._pauses.notice)

    @property
    def in_loop(self) -> bool:
        """Whether a loop over `ticks` runs: then that loop begins and ends the ticks."""
        return self._looping

    @property
    def dropped(self) -> int:
        """Records that are lost, as the disk did not take them in time."""
        return self._recorder.dropped if self._recorder else 0

    @property
    def latest_resources(self) -> dict[str, float]:
        """The newest sample of the machine; other threads may look at it."""
        return self._recorder.latest_resources if self._recorder else {}

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
            initial: ticks already done, when a run resumes from a checkpoint. A tick that an
                exception ended may be done again; those on record may in another attempt.

        A tick ends, and is recorded, when the body of the loop does. A body left by an exception
        is no tick; one left by `break` is, and is recorded when something is logged, the next loop
        begins or the clock closes: `stop()` ends a loop without that delay.

        Raises:
            ConfigError: `micro_batches` is not positive, the clock is not entered, another loop or
                tick of it runs, or `initial` is before a tick that is on record.
        """
        if micro_batches is not None and micro_batches < 1:
            raise ConfigError("micro_batches must be at least 1", got=str(micro_batches))
        self._check_entered()
        return self._iterate(loader, micro_batches, total, initial)

    def _iterate(
        self, loader: Iterable[Any], size: int | None, total: int | None, initial: int | None
    ) -> Iterator[Any]:
        if self._watch is not None:
            self._watch.end_tick()
        self._check_no_tick_runs()
        if initial is not None:
            initial = self._check_tick(initial, in_tick=False)
            if self._unwritten is not None and initial < self._unwritten.tick:
                self._write_unfinished(0.0)  # it is done again
        self._write_pending()
        if initial is not None:
            self.tick = initial
        self._write_phases()
        self._beats = 1
        self._stopping = False
        self._bar.close()
        if self._progress and self.rank == 0:
            expected = last_tick(loader, size or 1, self.tick) if total is None else total
            self._bar = Progress(initial=self.tick, total=expected)
            self._show = self._bar.show
        self._choose_ledger()
        ledger = self._ledger
        data = ledger.phases["data"]
        self._begin_time()
        self._looping, self._between = True, False
        try:
            with data:
                source = iter(loader)
            while total is None or self._tick < total:
                with data:
                    if size is None:
                        taken = next(source, _NOTHING)
                        beats = getattr(taken, "beats", 1)
                        self._beats = beats if type(beats) is int and 0 < beats <= LARGEST else 1
                    else:
                        taken = list(itertools.islice(source, size))
                        self._beats = len(taken)
                        if not taken:
                            taken = _NOTHING
                if taken is _NOTHING:
                    break
                self._tick += 1
                self._in_tick = True
                try:
                    yield taken
                except GeneratorExit:
                    # `break`, or an error on its way out of the body: only the clock's own exit
                    # knows which, so the record waits for it.
                    if not self._closed:
                        self._unwritten = self._end()
                    raise
                self._in_tick = False
                self._record(self._end())
                self._newest = self._tick
                if self._stopping:
                    break
        finally:
            self._looping = self._in_tick = False
            self._leave()
            ledger.pause()
            ledger.close()  # the wait that found the loader empty is part of no tick
            self._choose_phases()

    def begin_tick(self) -> None:
        """For callbacks: the next tick runs from now on.

        Time since `end_tick` counts to it too; time before the first tick, or since `pause`, does
        not. Set `tick` before, to go on counting where a run was resumed.

        Raises:
            ConfigError: a tick runs already, or the clock is not entered.
        """
        self._check_no_tick_runs()
        if self.latest is None:
            self._choose_ledger()
        if self._ledger.counting:
            self._ledger.begin()
        else:
            self._write_phases()
            self._begin_time()
        self._tick += 1
        self._in_tick, self._between = True, False

    def end_tick(self, *, beats: int = 1) -> None:
        """For callbacks: the running tick is over; it is recorded.

        Raises:
            ConfigError: no tick was begun, or `beats` is not a positive integer.
        """
        if self._looping or not self._in_tick:
            raise ConfigError(
                "end_tick ends what begin_tick has begun",
                got="a loop over clock.ticks()" if self._looping else "no tick that was begun",
            )
        self._beats = check_beats(beats)
        self._in_tick, self._between = False, True
        self._record(self._end())
        self._newest = self._tick

    def pause(self) -> None:
        """For callbacks: time until the next `begin_tick` is part of no tick, but for phases.

        These are put to the tick before.
        """
        self._ledger.pause()
        if not self._in_tick:
            self._write_phases()
        self._choose_phases()

    def abandon_tick(self, *, keep_time: bool) -> None:
        """For hooks: undo `begin_tick`; nothing is recorded, the next tick gets the same number.

        Args:
            keep_time: whether the time since `begin_tick` counts to the next tick.
        """
        self._tick -= 1
        self._in_tick = False
        self._leave()
        if not keep_time:
            self.discard_time()

    def discard_time(self) -> None:
        """For hooks: stop the time between two ticks; time since the last one counts to no tick."""
        self._ledger.pause()
        self._ledger.close()
        self._choose_phases()

    def _begin_time(self) -> None:
        """After a time that was no tick's."""
        self._ledger.begin()
        self._choose_phases()
        if self._pauses.take() >= LONG_PAUSE_NS:
            self._tell_pauses()

    def _check_entered(self) -> None:
        if self._recorder is None and not self._closed:
            raise not_entered()

    def _check_no_tick_runs(self) -> None:
        self._check_entered()
        if self._looping:
            raise ConfigError(
                "one tick runs at a time",
                got="a loop over clock.ticks() that is not over",
                fix="iterate an inner loader without the clock, and close() the iterator of a loop "
                "that was left if it is kept in a variable",
            )
        if self._in_tick:
            raise ConfigError(
                "one tick runs at a time", got="one that has not ended", fix="end_tick() first"
            )

    # --- between ticks --------------------------------------------------------------------------

    def _leave(self) -> None:
        """No tick runs, and none is certain to come."""
        over = self._newest is not None or self._unwritten is not None
        self._between = over or self._closed

    def _log_between(self, metrics: dict[str, Any], fetching: dict[str, Pending]) -> None:
        if self._closed:
            self._refuse()
            return
        if self._recorder is None:
            raise not_entered()
        self._write_left()
        self._write_after(metrics, fetching)

    def _write_phases(self) -> None:
        """Put on record the phases since the last tick; before the first one they are its own."""
        is_after = self._newest is not None or self._unwritten is not None
        if is_after and not self._closed:
            self._write_after({}, {})

    def _write_after(self, metrics: dict[str, Any], fetching: dict[str, Pending]) -> None:
        """Put on record what was logged after a tick, and the phases since then."""
        begin = self.now()
        tick = self._newest if self._unwritten is None else self._unwritten.tick
        late = logged_after(
            self._tick if tick is None else tick,
            self._epoch + begin,
            {} if self._ledger.counting else self._ledger.close()[1],
            metrics,
            fetching,
        )
        if late is not None:
            self._deferred.append(late)  # so they come in order
            land(self._deferred, self._write_late)
        if self._ledger.counting:
            self._cost_ns += self.now() - begin

    def _write_late(self, record: TickRecord) -> None:
        if record.beats:
            super()._write_late(record)
            return
        self._tell("between", record)
        self._add_to_totals(record)
        latest = self.latest
        if latest is not None and latest.tick == record.tick:
            self.latest = structs.replace(latest, metrics=latest.metrics | record.metrics)

    def _tell(self, name: str, record: TickRecord) -> None:
        self._spell_out(record)
        fields = event_fields(record)
        if fields and self._recorder is not None:
            self._recorder.event_of(record.tick, record.time_ns, name, fields)

    def _write_left(self) -> None:
        """A body that was left by an error, and nothing is being raised, was left by `break`."""
        if self._unwritten is not None and sys.exc_info()[0] is None:
            self._write_pending()

    def _write_pending(self) -> None:
        if self._unwritten is not None:
            pending, self._unwritten = self._unwritten, None
            self._record(pending)
            self._newest = pending.tick

    def _not_writable(self, error: OSError) -> RunError:
        return RunError(
            "a run's directory must be writable",
            got=f"{self.directory}: {error.strerror or error}",
        )

    # --- what is logged inside a tick -----------------------------------------------------------

    def flush(self) -> bool:
        """Wait until the ticks on record are on the disk, as before a checkpoint that follows them.

        They survive this process without it; other machines see them sooner. False if the disk
        does not take them within a few seconds.
        """
        if self._recorder is None:
            if self._idle:
                return True
            raise not_entered()
        self._write_left()
        return self._recorder.flush()

    def stop(self) -> None:
        """Let the tick that is running be the last of its loop.

        Other than after `break`, its record is on its way when the loop is over.
        """
        self._stopping = True


def _absolute(directory: str | os.PathLike[str]) -> Path:
    name = os.fspath(directory)
    if not name or "\0" in name:  # as of a variable that is not set
        raise ConfigError("a run needs a directory", got=repr(name), fix="'.' for this one")
    return Path(name).absolute()


@contextlib.contextmanager
def _logging_errors() -> Iterator[None]:
    try:
        yield
    except Exception:
        _log.exception("a clock could not be closed as it should; what it had recorded is kept")


def _idle_clock(directory: Path, tick: int) -> Clock:
    """What arrives of a clock in a copy, or in another process."""
    clock = Clock(directory)
    clock.tick = tick
    clock.forget()
    return clock


def _forget_all() -> None:
    for clock in list(_OPEN):
        clock.forget()


os.register_at_fork(after_in_child=_forget_all)
