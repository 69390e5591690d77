"""The clock: one record per tick, written when the tick ends."""

from __future__ import annotations

import itertools
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from metronorm.clock.ledger import Ledger
from metronorm.clock.progress import Progress
from metronorm.clock.record import TickRecord, check_names, encode_tick, plain_number
from metronorm.clock.resources import sample_resources
from metronorm.clock.run import (
    create_run,
    host,
    new_attempt,
    read_run_info,
    tape_folder,
    versions,
)
from metronorm.clock.tape import LIVE, Tape, encode
from metronorm.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

T = TypeVar("T")

RESOURCE_PERIOD_NS = 1_000_000_000
_NOTHING: Any = object()

_log = logging.getLogger("metronorm")


class Clock:
    """Records every tick of a training loop in a run directory.

    Args:
        directory: the run. New unless `resume`; parents are made.
        config: what the run was configured with: plain JSON values.
        resume: continue the run that is there, as a new attempt.
        name: what to call the run; the directory's name by default.
        progress: show a bar on standard error.
        now: a monotonic clock in integer nanoseconds.

    Raises:
        RunError: the directory holds a run (without `resume`) or none (with it), or is not
            writable.

    Recording never stops the loop: a tick that the disk does not take is dropped, counted in
    `dropped`, and told of when the clock closes.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        config: dict[str, Any] | None = None,
        resume: bool = False,
        name: str | None = None,
        progress: bool = True,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.directory = Path(directory)
        self.tick = 0
        self._config = config or {}
        self._resume = resume
        self._name = name
        self._progress = progress
        self._epoch = time.time_ns() - now()
        self._ledger = Ledger(now)
        self._phase = self._ledger.phases.get
        self._beats = 1
        self._stopping = False
        self._metrics: dict[str, float | str] = {}
        self._known: set[str] = set()
        self._unwritten: TickRecord | None = None
        self._latest: TickRecord | None = None
        self._resources_due = 0
        self._tapes: dict[str, Tape] = {}
        self._bar = Progress(enabled=False)

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
        """What entering `with` does, for callbacks: claim an attempt and open its tapes."""
        if self._resume:
            read_run_info(self.directory)
        else:
            create_run(self.directory, name=self._name, config=self._config)
        self.rank = int(os.environ.get("RANK", "0"))
        try:
            self.attempt = new_attempt(self.directory, self.rank)
            for kind in ("ticks", "events", "resources"):
                folder = tape_folder(self.directory, kind, self.attempt, self.rank)
                folder.mkdir(parents=True, exist_ok=True)
                self._tapes[kind] = Tape(folder / LIVE)
        except OSError as error:
            raise RunError(
                "a run's directory must be writable",
                got=f"{self.directory}: {error.strerror or error}",
            ) from None
        self._ticks_tape = self._tapes["ticks"]
        self.event("start", process=os.getpid(), host=host()["name"], versions=versions())
        return self

    def close(self, error: BaseException | None = None) -> None:
        """What leaving `with` does: write what is not written yet; `error` ended the run."""
        if error is None:
            self._write_pending()
            self.event("end")
        else:
            self.event("end", error=type(error).__name__, message=str(error))
        self._bar.close()
        for tape in self._tapes.values():
            tape.close()
        if self.dropped:
            errors = [tape.last_error for tape in self._tapes.values() if tape.last_error]
            _log.warning(
                "%d records could not be written to %s (%s); training went on without them",
                self.dropped,
                self.directory,
                errors[0].strerror,
            )

    @property
    def latest(self) -> TickRecord | None:
        """The record of the newest finished tick; other threads may look at it."""
        return self._latest

    @property
    def latest_resources(self) -> dict[str, float]:
        """The newest sample of the machine; other threads may look at it."""
        return {}

    @property
    def dropped(self) -> int:
        """Records that the disk did not take."""
        return sum(tape.dropped for tape in self._tapes.values())

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

        A tick ends, and is written, when the body of the loop does. A body left by an exception
        is no tick; one left by `break` is, and is written when the next loop begins or the clock
        closes: `stop()` ends a loop without that delay.

        Raises:
            ConfigError: `micro_batches` is not positive, or the clock is not entered.
        """
        if micro_batches is not None and micro_batches < 1:
            raise ConfigError("micro_batches must be at least 1", got=str(micro_batches))
        if not self._tapes:
            raise ConfigError(
                "a clock must be entered before it ticks", fix="with Clock(...) as clock:"
            )
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
        data = self.phase("data")
        self._ledger.begin()
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
                self._ledger.pause()
                raise
            self._record(self._end())
            if self._stopping:
                break
        self._ledger.pause()
        self._ledger.close()  # the wait that found the loader empty is part of no tick

    def begin_tick(self) -> None:
        """For callbacks: the next tick runs from now on.

        Time since `end_tick` counts to it too; time before the first tick, or since `pause`, does
        not.
        """
        self._ledger.begin()
        self.tick += 1

    def end_tick(self, *, beats: int = 1) -> None:
        """For callbacks: the running tick is over; its record is written."""
        self._beats = beats
        self._record(self._end())

    def pause(self) -> None:
        """For callbacks: time until the next `begin_tick` is part of no tick."""
        self._ledger.pause()
        self._ledger.close()

    def arrive(self) -> None:
        """This rank has its gradients and enters the collective that waits for all ranks."""

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

    def _end(self) -> TickRecord:
        wall_ns, spent = self._ledger.close()
        metrics, self._metrics = self._metrics, {}
        time_ns = self._epoch + self._ledger.last
        return TickRecord(self.tick, time_ns, wall_ns, self._beats, spent, metrics)

    def _record(self, record: TickRecord) -> None:
        self._ticks_tape.write(encode_tick(record))
        self._latest = record
        moment = self._ledger.last
        if moment >= self._resources_due:
            self._resources_due = moment + RESOURCE_PERIOD_NS
            sample = sample_resources(record.tick, record.time_ns)
            self._tapes["resources"].write(encode(sample))
        self._bar.show(record.tick, record.wall_ns, record.metrics, moment)

    def _write_pending(self) -> None:
        if self._unwritten is not None:
            self._record(self._unwritten)
            self._unwritten = None

    # --- what is said inside a tick ---------------------------------------------------------------

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A named stretch of the tick: `with clock.phase("forward"):`.

        Time in a phase between two loops (an evaluation after an epoch) counts to the next tick.
        """
        return self._phase(name) or self._ledger.open(name)

    def log(self, **metrics: Any) -> None:
        """Put numbers on the tick's record; said twice, the last one holds.

        Takes Python numbers and anything of one element with `.item()` (tensors, NumPy scalars).
        `loss` and `tokens` are shown in the bar.

        Raises:
            ConfigError: not one number, or a name that the record needs itself.
        """
        if not self._known.issuperset(metrics):
            check_names(metrics)
            self._known.update(metrics)
        for name, value in metrics.items():
            if type(value) is not float and type(value) is not int:
                metrics[name] = plain_number(name, value)
        self._metrics.update(metrics)

    def stop(self) -> None:
        """Let the tick that is running be the last of its loop.

        Other than after `break`, its record is on the tape when the loop is over.
        """
        self._stopping = True

    def event(self, name: str, **fields: Any) -> None:
        """Put something that happened on record, with the tick it happened in."""
        record = {
            "event": name,
            "tick": self.tick,
            "time_ns": self._epoch + self._ledger.now(),
            "fields": fields,
        }
        self._tapes["events"].write(encode(record))
