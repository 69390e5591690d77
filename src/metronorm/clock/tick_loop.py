"""The states of ticks: which may begin, which runs, and how the body of a loop was left."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from metronorm.clock.garbage_pauses import LONG_PAUSE_NS
from metronorm.clock.metric_values import check_beats
from metronorm.clock.progress import Progress, last_tick
from metronorm.errors import ConfigError
from metronorm.scalars import as_integer
from metronorm.store.schema import LARGEST_INTEGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from metronorm.clock.tick_recording import TickRecording

_EXHAUSTED: Any = object()


class TickLoop:
    """Begins and ends the ticks of a clock, one at a time.

    | state | event | next | why, and what is recorded |
    | --- | --- | --- | --- |
    | idle | a loop over `ticks` begins | waiting | the wait for the first batch is in tick 1 |
    | waiting | a batch is there | running | |
    | waiting | the loader is exhausted | idle | that wait belongs to no tick |
    | running | the body ends | waiting | the tick |
    | running | the body ends, after `stop` | idle | the tick |
    | running | `break` or an exception | idle | later: which one is not known yet |
    | idle, paused | `begin_tick` | begun | |
    | begun | `end_tick` | idle | the tick; time until the next one is in that one |
    | begun | `abandon_tick` | idle | nothing: the tick never was |
    | idle | `pause` | paused | phases since the last tick, for that tick |
    | idle | `discard_time` | paused | nothing |

    Waiting and running is `looping`, running and begun is `in_tick`. Any other event in these
    states is a ConfigError: one tick runs at a time, so that each has one record.

    Args:
        recording: makes and writes the records.
    """

    def __init__(self, recording: TickRecording) -> None:
        self._recording = recording
        self.looping = self.in_tick = False
        self._stopping = False
        self.total: int | None = None
        self.shows_progress = False
        self._bar = Progress(enabled=False)
        self.before_loop: Callable[[], None] = lambda: None
        """Called when a loop begins, before its first tick."""

    def set_tick(self, value: Any) -> None:
        """Count on from this number.

        Raises:
            ConfigError: it is no integer of 64 bits, or a tick with that number, or a later one,
                is recorded.
        """
        self._recording.tick = self._checked(value, in_tick=self.in_tick)

    def _checked(self, value: Any, *, in_tick: bool) -> int:
        tick = as_integer(value)
        if tick is None or not -LARGEST_INTEGER <= tick < LARGEST_INTEGER:
            raise ConfigError("a tick must be an integer of 64 bits", got=repr(value))
        newest = self._recording.newest
        if newest is not None and tick < newest + in_tick:
            raise ConfigError(
                "a clock must not count back: each tick has one record",
                got=f"{tick} after tick {newest}",
                fix="close this clock; Clock(directory, resume=True) begins another attempt, which "
                "may count from an earlier tick",
            )
        return tick

    def check_no_tick_runs(self) -> None:
        """Raise ConfigError if a tick runs, or a loop, or the clock was never opened."""
        self._recording.check_open()
        if self.looping:
            raise ConfigError(
                "one tick runs at a time",
                got="a loop over clock.ticks() that is not over",
                fix="iterate an inner loader without the clock, and close() the iterator of a loop "
                "that was left if it is kept in a variable",
            )
        if self.in_tick:
            raise ConfigError(
                "one tick runs at a time", got="one that has not ended", fix="end_tick() first"
            )

    # --- a loop over `ticks` --------------------------------------------------------------------

    def iterate(
        self, loader: Iterable[Any], size: int | None, total: int | None, initial: int | None
    ) -> Iterator[Any]:
        """Iterate `loader`, one tick for each turn; see `Clock.ticks`.

        Args:
            loader: yields batches.
            size: batches of a window, which is then a list; None: one batch for each turn.
            total: number of the last tick; None: until the loader is exhausted.
            initial: number of the tick before the first; None: count on.
        """
        recording, sampling = self._recording, self._recording.sampling
        self.before_loop()
        self.check_no_tick_runs()
        if initial is not None:
            initial = self._checked(initial, in_tick=False)
            unwritten = recording.unwritten
            if unwritten is not None and initial < unwritten.tick:
                recording.write_unfinished(0.0)  # the loop does this tick again
        recording.write_unwritten()
        if initial is not None:
            self.set_tick(initial)
        recording.record_phases()
        recording.beats = 1
        self._stopping = False
        self.total = total
        self._show_progress(loader, size or 1, total)
        recording.choose_device()
        ledger = sampling.ledger
        data = ledger.phases["data"]
        self._begin_time()
        self.looping, recording.between = True, False
        try:
            with data:
                source = iter(loader)
            while self.total is None or recording.tick < self.total:
                with data:
                    if size is None:
                        batch = next(source, _EXHAUSTED)
                        beats = getattr(batch, "beats", 1)
                        recording.beats = (
                            beats if type(beats) is int and 0 < beats <= LARGEST_INTEGER else 1
                        )
                    else:
                        batch = list(itertools.islice(source, size))
                        recording.beats = len(batch)
                        if not batch:
                            batch = _EXHAUSTED
                if batch is _EXHAUSTED:
                    break
                recording.tick += 1
                self.in_tick = True
                try:
                    yield batch
                except GeneratorExit:
                    # `break` or an exception: the same here, but not for the clock that is closed
                    # or used next, so the record waits for that
                    if not recording.closed:
                        recording.unwritten = recording.end()
                    raise
                self.in_tick = False
                recording.record(recording.end())
                if self._stopping:
                    break
        finally:
            self.looping = self.in_tick = False
            self._leave()
            ledger.pause()
            ledger.close()  # the wait that found the loader exhausted belongs to no tick
            sampling.choose_phases()

    def set_total(self, total: Any) -> None:
        """Let the loop end with another tick; see `Clock.total`."""
        number = as_integer(total)
        if total is not None and number is None:
            raise ConfigError("total must be the number of a tick, or None", got=repr(total))
        self.total = number
        self._bar.set_total(number)

    def stop(self) -> None:
        """Let the loop end with the running tick."""
        self._stopping = True

    def _show_progress(self, loader: Iterable[Any], size: int, total: int | None) -> None:
        self._bar.close()
        if self.shows_progress:
            tick = self._recording.tick
            expected = last_tick(loader, size, tick) if total is None else total
            self._bar = Progress(initial=tick, total=expected)
            self._recording.show = self._bar.show

    # --- ticks of callbacks ---------------------------------------------------------------------

    def begin(self) -> None:
        """Begin the next tick; see `Clock.begin_tick`."""
        recording = self._recording
        self.check_no_tick_runs()
        if recording.latest is None:
            recording.choose_device()
        if recording.sampling.ledger.counting:
            recording.sampling.ledger.begin()
        else:
            recording.record_phases()
            self._begin_time()
        recording.tick += 1
        self.in_tick, recording.between = True, False

    def end(self, beats: Any) -> None:
        """End and record the tick that `begin` began; see `Clock.end_tick`."""
        if self.looping or not self.in_tick:
            raise ConfigError(
                "end_tick ends what begin_tick has begun",
                got="a loop over clock.ticks()" if self.looping else "no tick that was begun",
            )
        self._recording.beats = check_beats(beats)
        self.in_tick, self._recording.between = False, True
        self._recording.record(self._recording.end())

    def pause(self) -> None:
        """Stop the time between two ticks; phases since the last tick count to that tick."""
        self._recording.sampling.ledger.pause()
        if not self.in_tick:
            self._recording.record_phases()
        self._recording.sampling.choose_phases()

    def abandon(self, *, keep_time: bool) -> None:
        """Undo `begin`; see `Clock.abandon_tick`."""
        self._recording.tick -= 1
        self.in_tick = False
        self._leave()
        if not keep_time:
            self.discard_time()

    def discard_time(self) -> None:
        """Stop the time between two ticks; the time since the last tick counts to no tick."""
        sampling = self._recording.sampling
        sampling.ledger.pause()
        sampling.ledger.close()
        sampling.choose_phases()

    # --- both -----------------------------------------------------------------------------------

    def _begin_time(self) -> None:
        """Begin to count time after a pause, whose time belongs to no tick."""
        recording = self._recording
        recording.sampling.ledger.begin()
        recording.sampling.choose_phases()
        if recording.garbage.take() >= LONG_PAUSE_NS:
            recording.garbage.report_long()

    def _leave(self) -> None:
        """No tick runs: values belong to the tick before, or wait for the first tick."""
        self._recording.between = self._recording.has_ticks or self._recording.closed

    # --- the end of the clock -------------------------------------------------------------------

    def end_kept_loop(self) -> None:
        """Record the tick of a loop whose iterator is kept: `break` left its body."""
        recording = self._recording
        if self.looping and self.in_tick:
            self.in_tick = False
            recording.record(recording.end())
        recording.write_unwritten()

    def end_unfinished(self, patience_seconds: float | None) -> None:
        """Record the rest; a tick that still runs did not finish.

        Args:
            patience_seconds: how long to wait for a device at most; None: no end.
        """
        if self.in_tick:
            self._recording.unwritten = self._recording.end()
        self._recording.write_rest(patience_seconds)

    def close(self) -> None:
        """Draw the bar for the last time, and refuse later values."""
        self._recording.close()
        self._bar.close()

    def detach_after_fork(self) -> None:
        """Do nothing more, neither record nor draw: the clock belongs to the parent process."""
        self._recording.detach_after_fork()
        self.shows_progress = self.looping = self.in_tick = False
        self._bar = Progress(enabled=False)
