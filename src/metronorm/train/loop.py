"""The training loop: this and `step.py` are the heart of `metronorm.train`.

Everything that decides the parameters (weights, optimizer, averages, place in the data) is in the
checkpoint, and nothing else does: a resumed run goes on bit for bit. What is trained is a `Task`,
and the loop knows nothing else of it. `opening.py` finds out which run it is.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.checkpoints.checkpoint import FOLDER
from metronorm.clock import Clock, read_run_info
from metronorm.errors import RunError
from metronorm.memory import explaining_out_of_memory
from metronorm.scalars import as_real
from metronorm.train.config_changes import CONFIG_FILE, changes, config_to_dict, write_toml
from metronorm.train.measuring import Measuring
from metronorm.train.preparing import Preparation
from metronorm.train.saving import Saving
from metronorm.train.starting import say_what_starts
from metronorm.train.task import Moment
from metronorm.train.time_budget import TimeBudget

if TYPE_CHECKING:
    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.train.config import TrainConfig
    from metronorm.train.stop import Stop
    from metronorm.train.task import Task
    from metronorm.train.world import World

_log = logging.getLogger("metronorm")


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        directory: of the run.
        tick: the last one.
        measures: of the newest evaluation, by name; empty where there was none.
        test: measures of the test set; empty where there is none, or the end was not reached.
        signal: that stopped it.
        reason: why a hook stopped it.
        saved: the tick of the newest checkpoint: less than `tick` where the last one found no
            room, None where none did.
    """

    directory: Path
    tick: int
    measures: Mapping[str, float]
    test: Mapping[str, float]
    signal: signal.Signals | None
    reason: str | None
    saved: int | None


class Training:
    """One attempt at a run; `clock` has claimed it on resume.

    Args:
        task: what to train.
        config: how.
        directory: of the run.
        world: the processes that train together.
        stop: notes signals from the first tick on.
        clock: of a run that goes on; None: of a new one.
        found: the checkpoint to go on from; None: from tick 0.
        old: the config that the run had; None: it is new.
        branch: whether the attempt is a branch.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        directory: Path,
        world: World,
        stop: Stop,
        clock: Clock | None = None,
        found: Checkpoint | None = None,
        old: dict[str, Any] | None = None,
        *,
        branch: bool = False,
    ) -> None:
        self.task, self.directory, self.found = task, directory, found
        self.old, self.is_branch, self.world = old, branch, world
        self.ready = Preparation(task, config, found, branch=branch, world=world)
        self.budget = self._time_budget(config) if config.minutes else None
        self.config = config = self.ready.step.config
        self.stop, self.reason = stop, ""
        self.clock = clock or Clock(directory, config=config_to_dict(config))
        self.saving = Saving(self.ready, directory, found, branch=branch)
        self.measuring = Measuring(self.ready, self.stop, found)

    def _time_budget(self, config: TrainConfig) -> TimeBudget:
        state = self.found.state if self.found else {}
        return TimeBudget(
            config.minutes,
            self.directory,
            self.world,
            done=self.ready.ticks_done,
            seconds=as_real(state.get("seconds")) or 0.0,
            again=not self.is_branch and (self.old or {}).get("minutes") == config.minutes,
        )

    def run(self) -> Outcome:
        """Train to the planned end, or until a signal or a hook ends it."""
        config, initial = self.config, self.found.tick if self.found else 0
        step, saving, measuring, stop = self.ready.step, self.saving, self.measuring, self.stop
        failed: BaseException | None = None
        stop.begin(self.world)
        with self.clock as clock, contextlib.ExitStack() as stack:
            self.world.check_same(
                "directory of the run",
                {"run": read_run_info(self.directory).id},
                fix="a directory that all machines share",
            )
            with self.world.failing_together():
                self._begin(clock)
            if self.world.size > 1:  # for the moment when this rank begins to wait for the others
                clock.watch(step.reducing)
            stack.enter_context(saving.finished_tick(clock))
            stack.enter_context(self.world.naming_the_lost(clock.event))
            stack.enter_context(explaining_out_of_memory(resume=self.old is not None))
            beats = self.ready.windows()
            for window in clock.ticks(beats, total=self.config.ticks, initial=initial):
                saving.write(clock)
                last = clock.tick == self.config.ticks
                score, updated = None, False
                try:
                    with self._around(clock, last=last):
                        step.tick(clock, window, agree=stop.agree)
                        self.ready.averages.update(clock.tick)
                        updated = True
                    if last or clock.tick % config.evaluate_every == 0:
                        score = measuring.evaluate(clock)
                    self._run_hooks(clock, last=last)
                    if last:
                        measuring.read_test(clock)
                except (Exception, SystemExit) as error:
                    if not updated or self.world.size > 1:
                        raise
                    failed = error  # the tick is recorded and saved before this goes on
                if stop.signal:
                    clock.event("signal", signal=stop.signal.name)
                ends = bool(last or stop.signal or self.reason or failed)
                if self.budget and not ends:
                    self._plan(clock, self.budget.end_tick(clock.tick))
                due = saving.is_best(score) or ends or clock.tick % config.checkpoint_every == 0
                saving.take(clock.tick, score, measuring, due=due)
                if ends:
                    clock.stop()
                self.world.at(clock.tick + 1, "data")
            if failed is not None:
                raise failed
            saving.write(clock)
            step.first_nonfinite.check(wait=True)
        return Outcome(
            self.directory,
            clock.tick,
            measuring.measures,
            measuring.test,
            stop.signal,
            self.reason or None,
            saving.saved,
        )

    def _begin(self, clock: Clock) -> None:
        """Say what starts, on screen and on record, and write what belongs to the run."""
        if self.budget:
            self._plan(clock, self.budget.begin(self.ready.tick_seconds))
        clock.event(
            "machine",
            precision=self.ready.step.precision,
            allocator=self.ready.allocator,
            **(self.ready.convolutions.on_record() if self.ready.convolutions else {}),
        )
        if self.ready.forecast:
            clock.event("forecast", **self.ready.forecast)
        if self.world.first:
            say_what_starts(self.ready, self.directory)
            self._write_what_belongs()
        self.world.barrier()
        if self.old is None:
            return
        passed_over = {"data_id", "ticks"} if self.budget else {"data_id"}
        found = [
            change for change in changes(self.old, self.config) if change.name not in passed_over
        ]
        for change in found:
            if change.name == "ticks" and self.world.first:
                _log.warning("the learning rate's schedule ends at tick %d now", change.after)
        clock.event(
            "branch" if self.is_branch else "resume",
            checkpoint=self.found.path.name if self.found else None,
            changed=[str(change) for change in found],
        )

    def _plan(self, clock: Clock, ticks: int | None) -> None:
        """Have the training end after so many ticks; None: as it was planned."""
        assert self.budget is not None
        self.saving.seconds = self.budget.seconds
        if ticks is None or ticks == self.config.ticks:
            return
        self.config = self.ready.step.config = replace(self.config, ticks=ticks)
        self.ready.averages.plan(ticks)
        self.saving.plan(self.config)
        clock.total = ticks
        clock.event("plan", ticks=ticks, seconds=round(self.budget.seconds, 3))
        if self.world.first and clock.in_loop:
            try:
                write_toml(self.directory / CONFIG_FILE, self.config)
            except OSError as error:  # readers show the plan before; what counts is in plans.json
                _log.warning("%s: %s", CONFIG_FILE, error.strerror or error)

    def _write_what_belongs(self) -> None:
        try:
            if self.task.save is not None:
                kept = self.found.state if self.found else {}
                self.saving.keep(self.task.save(self.directory, kept))
            (self.directory / FOLDER).mkdir(exist_ok=True)
            write_toml(self.directory / CONFIG_FILE, self.config)
        except OSError as error:
            raise RunError(
                "a run's directory must be writable and have room",
                got=f"{self.directory}: {error.strerror or error}",
            ) from None

    def _around(self, clock: Clock, *, last: bool) -> contextlib.ExitStack:
        """The contexts of the hooks that watch this tick."""
        stack = contextlib.ExitStack()
        for hook in self.task.hooks:
            if hook.around is not None and hook.is_due(clock.tick, last=last):
                stack.enter_context(hook.around(self._moment(clock, last=last)))
        return stack

    def _run_hooks(self, clock: Clock, *, last: bool) -> None:
        for hook in self.task.hooks:
            if hook.is_due(clock.tick, last=last) and not self.stop.signal:
                with self.world.phase(clock, hook.phase):
                    hook.run(self._moment(clock, last=last))
                self.world.at(clock.tick, f"after {hook.phase}")
                self.reason = self.world.any_of(self.reason)

    def _moment(self, clock: Clock, *, last: bool) -> Moment:
        def stop(reason: str) -> None:
            self.reason = reason
            clock.event("stop", reason=reason)

        return Moment(
            tick=clock.tick,
            last=last,
            clock=clock,
            model=self.ready.step.model,
            optimizer=self.ready.step.optimizer,
            directory=self.directory,
            measures=self.measuring.measures,
            stop=stop,
            until_signal=self.stop.until_signal,
            interrupted=lambda: self.stop.signal is not None,
            rank=self.world.rank,
            precision=self.ready.step.precision,
        )
