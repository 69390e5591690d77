"""The clock: the class that a training loop uses."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from metronorm.clock.attempt_writer import Recorder
from metronorm.clock.overhead_budget import DEFAULT
from metronorm.clock.stall import StallWatch
from metronorm.clock.tick_loop import TickLoop
from metronorm.clock.tick_recording import TickRecording, clock_not_open
from metronorm.errors import ConfigError, RunError
from metronorm.files import shown_path
from metronorm.ranks import find_place
from metronorm.scalars import as_integer
from metronorm.store.owner import Ownership
from metronorm.store.run_directory import RUN_FILE, changes, create_run, new_attempt, read_run_info
from metronorm.store.sql_columns import literal_glob
from metronorm.store.writer import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from metronorm.clock.device import Device
    from metronorm.clock.hooks import Watch
    from metronorm.clock.phase_timer import Phase
    from metronorm.store.schema import TickRecord

_log = logging.getLogger("metronorm")

T = TypeVar("T")

_OPEN: weakref.WeakSet[Clock] = weakref.WeakSet()


class Clock:
    """Records every tick of a training loop in a run directory.

    A number on its way from `log` to the disk:

        Clock.log                  clock/clock.py           a training loop logs it
        TickRecording.log, .end    clock/tick_recording.py  into the tick's record; at the end of
                                                            the tick the record becomes a line
        Ring.put                   store/ring.py            into shared memory: safe from a kill
        Writer                     store/writer.py          a thread, four times a second
        Tape.append                store/tape.py            onto the disk

    `TickLoop` decides which tick runs, `PhaseSampling` which phases are measured, and `Recorder`
    owns rings, tapes and threads of this process.

    Args:
        directory: the run's directory. A new one unless `resume`; parents are created. All ranks
            of a launch share it.
        config: the configuration of the training: plain JSON values, also NaN and infinities.
        resume: continue the run in `directory` as a new attempt. The run keeps its config and its
            name; different arguments are an event `changed`, and a warning.
        name: the run's name; None: the name of the directory.
        progress: show a progress bar on standard error.
        device: the accelerator that measures phases; None: the one that torch uses when a loop
            begins, else the host.
        budget: part of a tick that measuring its phases may cost; beyond it they are measured in
            some ticks only, and an event reports that. 0.001 is 0.1 %.
        stall: when missing ticks are a stall, and whom to notify; None: never.
        now: a monotonic clock in integer nanoseconds.

    Raises:
        RunError: the directory holds a run (without `resume`) or none (with it), another process
            writes the run, the directory is not writable, or DuckDB cannot read its path.
        ConfigError: `directory` is not a name of a directory.

    Recording never stops the loop: a tick that the disk does not take waits in memory; one for
    which there is no room is dropped, counted in `dropped`, and reported. In a child of `fork`,
    such as a data loader's worker, the clock does nothing, and so does a copy or a pickle of it. A
    closed clock records nothing and warns once.

    Nothing that is logged is dropped without a report: values that are logged after a tick are in
    its row, and values of a tick that never ends are an event `unfinished`; see
    `metronorm.clock.between`.
    """

    phase: Callable[[str], Phase]
    """A named stretch of the tick: `with clock.phase("forward"):`.

    Time in a phase between two loops (an evaluation after an epoch) counts to the tick before, or
    to the first tick if there is none before. Phases of other threads do not count.
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
        self.now = now
        self._recording = TickRecording(
            now=now, device=device, budget=budget, publish=self._publish_phases
        )
        self._loop = TickLoop(self._recording)
        self.directory = _absolute(directory)  # the working directory may change later
        self._config = config or {}
        self._resume = resume
        self._name = name
        self._progress = progress
        self._stall = stall
        self._watch: Watch | None = None
        self._owner: Ownership | None = None
        self._recorder: Recorder | None = None

    def _publish_phases(self, phase: Callable[[str], Phase]) -> None:
        self.phase = phase  # an attribute, as it is called several times in every tick

    def __repr__(self) -> str:
        return f"<Clock {shown_path(self.directory)!r}: {self._state}>"

    def _repr_html_(self) -> str:
        """The clock in a notebook."""
        from metronorm.clock.clock_html import clock_html  # `import metronorm.clock` must be quick

        return clock_html(shown_path(self.directory), self._state, self.latest, self.dropped)

    @property
    def _state(self) -> str:
        if self._recording.idle:
            return "records nothing in this process"
        if self._recorder is None:
            return "not open"
        return f"{'closed' if self._recording.closed else 'recording'}, tick {self.tick:,}"

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
        """Own an existing run before `open`, for a program that loads for long in between.

        `close` releases the run if it was never opened.

        Raises:
            RunError: another process writes the run, or its directory is not writable.
        """
        if self._owner is None:
            try:
                self._owner = Ownership(self.directory, find_place().rank)
            except OSError as error:
                raise self._not_writable(error) from None
            _OPEN.add(self)
        return self

    def open(self) -> Self:
        """Begin to record a new attempt, as `with` does; for callbacks.

        Raises:
            RunError: see the class.
            ConfigError: the clock was opened before, or `config` holds what JSON cannot.
        """
        if self._recording.idle:
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
                running=lambda: self._recording.sampling.ledger.counting,
                time_ns=self._recording.time_ns,
                stall=self._stall,
            )
        except BaseException as error:
            if owner is not None:
                owner.release()
            if not isinstance(error, OSError):
                raise
            raise self._not_writable(error) from None
        self._loop.shows_progress = self._progress and self.rank == 0
        self._recording.open(self._recorder, self.log)
        if changed:
            self._report_changed(changed)
        _OPEN.add(self)
        return self

    def _report_changed(self, changed: dict[str, Any]) -> None:
        self.event("changed", **changed)
        if self.rank == 0:
            _log.warning(
                "%s is resumed with another %s; %s keeps the first, an event `changed` has both",
                self.directory,
                " and ".join(changed),
                RUN_FILE,
            )

    def close(self, error: BaseException | None = None) -> None:
        """Write everything that is not on the disk yet, as the end of `with` does.

        Failures are logged and not raised, so that they do not replace `error`.

        Args:
            error: the exception that ended the run; None: the run is complete.
        """
        if self._recorder is None and self._owner is not None:  # claimed, and never opened
            self._owner.release()
        if self._recording.closed or self._recorder is None:
            return
        # after an error the device may hang or be broken
        patience = None if error is None else PATIENCE_SECONDS
        with _logging_errors(), contextlib.ExitStack() as steps:  # run from the last to the first
            steps.callback(self._recorder.close)
            steps.callback(self._loop.close)
            steps.callback(self._report_end, error)
            steps.callback(self._recorder.close_samples)
            steps.callback(self._recording.write_pending, patience)
            steps.callback(self._loop.end_unfinished, patience)
            if error is None:
                steps.callback(self._loop.end_kept_loop)
            if self._watch is not None:
                steps.callback(self._watch.remove)  # ends the tick if its step is done

    def _report_end(self, error: BaseException | None) -> None:
        fields = {}
        if error is not None:
            fields["error"] = type(error).__name__
            with contextlib.suppress(Exception):  # foreign code makes its text
                fields["message"] = str(error)
        self.event("end", **fields)

    def detach_after_fork(self) -> None:
        """Record nothing more, in a child of `fork`: the clock belongs to the parent process."""
        if self._recorder is not None:
            self._recorder.detach_after_fork()
        elif self._owner is not None:
            self._owner.detach_after_fork()
        self._loop.detach_after_fork()

    def watch(self, model: Any = None, optimizer: Any = None, loader: Any = None) -> Watch:
        """Record an existing PyTorch loop by hooks, without a change to the loop.

        Ticks are the optimizer's steps; phases are `data`, `forward`, `backward`, `communicate` and
        `update`. Each argument may be left out; inside `ticks` only phases are recorded. See
        `metronorm.clock.hooks.Watch`, which also removes the hooks.

        Raises:
            ConfigError: the clock is not open, watches another loop, or cannot watch an argument.
        """
        from metronorm.clock.hooks import Watch

        if self._recorder is None:
            raise clock_not_open()
        if self._watch is not None and not self._watch.removed:
            raise ConfigError(
                "a clock watches one loop at a time", fix="remove() the watch that there is"
            )
        self._watch = Watch(self, model, optimizer, loader)
        self._loop.before_loop = self._watch.end_tick
        return self._watch

    def flush(self) -> bool:
        """Wait until all recorded ticks are on the disk, such as before a checkpoint.

        They survive a killed process without it; other machines see them sooner. False if the disk
        does not take them within a few seconds.

        Raises:
            ConfigError: the clock is not open.
        """
        if self._recorder is None:
            if self._recording.idle:
                return True
            raise clock_not_open()
        self._recording.write_left()
        return self._recorder.flush()

    def _not_writable(self, error: OSError) -> RunError:
        return RunError(
            "a run's directory must be writable",
            got=f"{self.directory}: {error.strerror or error}",
        )

    # --- what is recorded -----------------------------------------------------------------------

    def log(self, /, **metrics: Any) -> None:
        """Put numbers on the tick's record; the last value of a name wins.

        Takes Python numbers and everything that `float` takes, except text: tensors of one element,
        NumPy scalars, Decimals, Fractions. A value that NumPy has masked is NaN. The clock does not
        wait for a tensor on an accelerator: its value is copied while training continues, and the
        tick's record is written when the copy has arrived, a few ticks later. The bar shows `loss`
        and `tokens`.

        Between two loops, and between `end_tick` and `begin_tick`, the numbers belong to the tick
        before: an event `between` records them at once, and readers put them into that tick's row.
        Before the first tick they belong to the first tick.

        Raises:
            ConfigError: a value is not one number, or a name cannot be a column.
        """
        self._recording.log(metrics)

    def event(self, name: str, /, **fields: Any) -> None:
        """Record an event with the number of the running tick; from any thread."""
        self._recording.event(name, **fields)

    def sample(self, name: str, value: Any, *, rate: int | None = None) -> None:
        """Keep text, a picture, audio or a table of the running tick, to look at; from any thread.

        The value is copied, and a thread writes the file `samples/attempt=N/rank=R/tick=T/NAME.*`
        in the run's directory; then an event `sample` names it. `run.samples()` lists them.

        | value | file |
        | --- | --- |
        | text | `.txt` |
        | array (height, width) or (height, width, 3 or 4), uint8, or floats from 0 to 1 | `.png` |
        | with `rate`: array (frames,) or (frames, 1 or 2), int16, or floats from -1 to 1 | `.wav` |
        | a list of dictionaries, or a dictionary of columns | `.jsonl`, one row a line |

        Arrays are those of NumPy, torch, JAX or TensorFlow. A tensor on an accelerator is copied
        while training continues; arrays in a table are waited for.

        Args:
            name: any text. The file has a name that is safe for it; a second sample of the same
                name and tick is `NAME-2`.
            value: see the table.
            rate: frames of audio a second.

        A sample has 4 MiB at most: text, audio and tables are cut, larger pictures are not kept.
        A rank keeps 10,000 samples and 512 MiB in a run. What is not kept, also because the disk
        refuses it, is counted in `dropped` and in an event `samples dropped`, with a warning.

        Raises:
            ConfigError: the value is none of these, or the clock is not open.
        """
        if self._recording.closed:
            self._recording.refuse()
        elif self._recorder is None:
            raise clock_not_open()
        else:
            self._recorder.sample(name, value, rate)

    def arrive(self, *, waited_ns: int = 0) -> None:
        """Record that this rank has its gradients, and waits for all ranks from now on.

        If a tick has several arrivals, the last one wins.

        Args:
            waited_ns: nanoseconds that this rank waited for other ranks earlier in the tick.
        """
        self._recording.arrive(int(waited_ns))

    @property
    def dropped(self) -> int:
        """How many records and samples are lost, such as because the disk did not take them."""
        return self._recorder.dropped if self._recorder else 0

    @property
    def latest(self) -> TickRecord | None:
        """The record of the newest complete tick; None before the first."""
        return self._recording.latest

    @property
    def totals(self) -> dict[str, int]:
        """Nanoseconds by phase, over all ticks since the first call; from any thread."""
        return self._recording.totals

    @property
    def latest_resources(self) -> dict[str, float]:
        """The newest sample of the machine's resources, by name; from any thread."""
        return self._recorder.latest_resources if self._recorder else {}

    # --- the loop -------------------------------------------------------------------------------

    @property
    def tick(self) -> int:
        """The number of the running tick, or of the last one; the first is 1.

        Set it to continue from another number: before a loop or `begin_tick`, to the number of
        ticks that are done; in a tick, to the number of that tick.

        Raises:
            ConfigError: the value is no integer of 64 bits, or a tick with that number, or a later
                one, is recorded.
        """
        return self._recording.tick

    @tick.setter
    def tick(self, value: int) -> None:
        self._loop.set_tick(value)

    @property
    def total(self) -> int | None:
        """The number of the last tick of a loop over `ticks`; None: as many as there are batches.

        Set it in the loop to plan anew: the loop ends with that tick, or with the running one if
        that is later, and the progress bar shows the time until then.

        Raises:
            ConfigError: the value is neither an integer nor None.
        """
        return self._loop.total

    @total.setter
    def total(self, value: int | None) -> None:
        self._loop.set_total(value)

    @property
    def in_loop(self) -> bool:
        """Whether a loop over `ticks` runs: then that loop begins and ends the ticks."""
        return self._loop.looping

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
        """Iterate `loader`, one tick for each turn of the loop; the wait is the phase `data`.

        Args:
            loader: any iterable of batches. The attribute `beats` of a batch, such as a window of
                `metronorm.optim`, is recorded as the tick's number of beats.
            micro_batches: yield windows, which are lists of this many batches; the last window of a
                loader may be shorter.
            total: the number of the last tick, counted from the start of the run.
            initial: how many ticks are done already, when a run resumes from a checkpoint. A tick
                that an exception ended may be done again; recorded ticks only in another attempt.

        A tick ends, and is recorded, when the body of the loop ends. A body that an exception left
        is no tick. A body that `break` left is one, and is recorded when something is logged, the
        next loop begins or the clock closes: `stop()` ends a loop without that delay.

        Raises:
            ConfigError: `micro_batches` is not a positive integer, the clock is not open, another
                loop or tick of it runs, or `initial` is before a recorded tick.
        """
        size = None if micro_batches is None else as_integer(micro_batches)
        if micro_batches is not None and (size is None or size < 1):
            raise ConfigError("micro_batches must be at least 1", got=repr(micro_batches))
        self._recording.check_open()
        return self._loop.iterate(loader, size, total, initial)

    def stop(self) -> None:
        """End the loop over `ticks` with the running tick.

        Unlike after `break`, the tick is recorded when the loop ends.
        """
        self._loop.stop()

    def begin_tick(self) -> None:
        """Begin the next tick; for callbacks.

        Time since `end_tick` counts to it too, but not time before the first tick or since `pause`.
        To continue the numbers of a resumed run, set `tick` before.

        Raises:
            ConfigError: a tick is running, or the clock is not open.
        """
        self._loop.begin()

    def end_tick(self, *, beats: int = 1) -> None:
        """End and record the running tick; for callbacks.

        Args:
            beats: micro-batches in the tick.

        Raises:
            ConfigError: no tick was begun, or `beats` is not a positive integer.
        """
        self._loop.end(beats)

    def pause(self) -> None:
        """Let time until the next `begin_tick` belong to no tick; for callbacks.

        Phases in that time count to the tick before.
        """
        self._loop.pause()

    def abandon_tick(self, *, keep_time: bool) -> None:
        """Undo `begin_tick`: nothing is recorded, and the next tick gets the same number.

        Args:
            keep_time: whether the time since `begin_tick` counts to the next tick.
        """
        self._loop.abandon(keep_time=keep_time)

    def discard_time(self) -> None:
        """Stop the time between two ticks; the time since the last tick counts to no tick."""
        self._loop.discard_time()


def _absolute(directory: str | os.PathLike[str]) -> Path:
    name = os.fspath(directory)
    if not name or "\0" in name:  # such as from a variable that is not set
        raise ConfigError("a run needs a directory", got=repr(name), fix="'.' for this one")
    path = Path(name).absolute()
    literal_glob(path)  # else nothing that is recorded there could ever be sealed
    return path


@contextlib.contextmanager
def _logging_errors() -> Iterator[None]:
    try:
        yield
    except Exception:
        _log.exception("a clock could not be closed as it should; what it had recorded is kept")


def _idle_clock(directory: Path, tick: int) -> Clock:
    """What a copy or a pickle of a clock becomes."""
    clock = Clock(directory)
    clock.tick = tick
    clock.detach_after_fork()
    return clock


def _detach_all() -> None:
    for clock in list(_OPEN):
        clock.detach_after_fork()


os.register_at_fork(after_in_child=_detach_all)
