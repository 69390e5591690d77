"""The training loop: this and `step.py` are the heart of `metronorm.train`.

Everything that decides the parameters (weights, optimizer, averages, place in the data) is in the
checkpoint, and nothing else does: a resumed run goes on bit for bit. What is trained is a `Task`,
and the loop knows nothing else of it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from metronorm.allocator import keep_large_blocks
from metronorm.clock import Clock, check_free
from metronorm.errors import ConfigError, DataError, RunError
from metronorm.memory import explaining_out_of_memory
from metronorm.optim import windows
from metronorm.train import checkpoint_folder, precision
from metronorm.train.averages import Averages
from metronorm.train.beats import IteratedBeats, make_beats
from metronorm.train.checkpoint import FOLDER
from metronorm.train.config_changes import (
    CONFIG_FILE,
    changes,
    check_resumable,
    config_to_dict,
    run_config,
    write_toml,
)
from metronorm.train.evaluate import evaluate
from metronorm.train.resuming import (
    check_same_config,
    check_same_data,
    checkpoint_to_resume,
    data_id_of,
    describe_machine,
)
from metronorm.train.starting import check_batch, initial_weights, say_what_starts
from metronorm.train.step import Step
from metronorm.train.stop import Stop
from metronorm.train.task import Moment, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from metronorm.train.checkpoint import Checkpoint
    from metronorm.train.config import TrainConfig

_log = logging.getLogger("metronorm")

Config = TypeVar("Config", bound="TrainConfig")


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        directory: of the run.
        tick: the last one.
        measures: of the last evaluation, by name; empty where there was none.
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


def train(
    task: Task | Callable[[Config], Task],
    config: Config,
    directory: Path,
    *,
    resume: bool = False,
    from_tick: int | None = None,
) -> Outcome:
    """Train a task, every tick on record in the run `directory`.

    Args:
        task: what to train; or a function that makes it of the config, called once it is certain
            that the run is this process's.
        config: how; on `resume` it must be the run's own but for what its fields say may differ.
        directory: of the run; new, or on `resume` one that is there.
        resume: go on from the newest whole checkpoint; from tick 0 where there is none yet.
        from_tick: with `resume`, go on from the checkpoint of this tick instead: a branch, for
            which the options of the optimizer may differ.

    Raises:
        DataError: data that cannot be used, or on `resume` other data than the run had.
        ConfigError: options that cannot work, or on `resume` differ from the run's.
        RunError: the directory holds another run, or on `resume` none, or one that another process
            is writing.
        CheckpointError: on `resume`, only damaged checkpoints, or none of `from_tick`.
        DivergenceError: the loss is no longer finite.
        OutOfMemoryError: a micro-batch that does not fit.
    """
    directory = directory.absolute()  # wherever the process goes
    branch = from_tick is not None
    with explaining_out_of_memory(resume=resume):
        if not resume:
            check_free(directory)
            return _Training(*made(task, config), directory).run()
        old = run_config(directory)
        check_resumable(config, old, proven=True, branch=branch)
        # the run is this process's before anything of it is read: else another one may go on with
        # it meanwhile, and this one then from where that had been
        with contextlib.closing(Clock(directory, resume=True).claim()) as clock:
            found = checkpoint_to_resume(directory, from_tick)
            data_id = (found and data_id_of(found)) or config.data_id
            check_resumable(config, old, proven=bool(data_id), branch=branch)
            if found:
                check_same_config(found, config, branch=branch)
                if config.ticks < found.tick:
                    raise ConfigError(
                        "ticks must be at least those that are done",
                        got=f"{config.ticks}, where {found.tick} are done",
                    )
            renamed = any(change.rule == "data" for change in changes(old, config))
            # with the hash a task may take its data from a cache; but data that is named anew must
            # be there, and the same
            config = replace(config, data_id="" if renamed else data_id or "")
            whole, config = made(task, config)
            check_same_data(data_id, config.data_id)
            return _Training(whole, config, directory, clock, found, old, branch=branch).run()


def made(task: Any, config: Config) -> tuple[Task, Config]:
    """The task, and the config with what its data decided."""
    whole: Task = task if isinstance(task, Task) else task(config)
    asked = config.data_id
    config = config if whole.config is None else whole.config
    data_id = whole.data_id or getattr(whole.batches, "data_id", None) or ""
    check_same_data(asked, data_id)
    return whole, replace(config, data_id=data_id)


class Preparation:
    """Model, optimizer and beats of a task, ready for the first tick.

    Args:
        task: what to train.
        config: how.
        found: the checkpoint to go on from; None: fresh weights.
        branch: the options of the optimizer are the config's, not the checkpoint's.

    Raises:
        MetronormError: what can be found wrong before the first tick.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        found: Checkpoint | None = None,
        *,
        branch: bool = False,
    ) -> None:
        device = precision.choose_device(config.device)
        torch.manual_seed(config.seed)
        model = task.model().to(device)
        if config.init_from and not found:
            initial_weights(model, Path(config.init_from))
        self.step = Step(task, config, model, device)
        self.beats = make_beats(task.batches, batch_size=config.batch_size, seed=config.seed)
        self.trial = self.beats.first()
        with precision.discarding_gradients(model):
            check_batch(self.step, self.trial)
            self._choose_precision(config, found)
        if isinstance(self.beats, IteratedBeats) and (doubt := self.beats.doubt()):
            _log.warning("a resume of this run will not be exact: %s", doubt)
        if found:
            self.beats.load_state_dict(found.state["sampler"])
        optimizer = self.step.optimizer  # its imports take seconds, which are no tick's
        self.averages = Averages(model, config)
        if found:
            found.load_model(model)
            found.load_optimizer(optimizer, self.averages, branch=branch)

    def _choose_precision(self, config: TrainConfig, found: Checkpoint | None) -> None:
        """As the config says, or as the run has had it so far, or else as is measured."""
        step, trial = self.step, self.trial
        if config.precision != "auto":
            step.precision = config.precision
        elif found:
            step.precision = found.state["precision"]
        else:
            step.precision = precision.choose_precision(
                lambda tried: step.try_out(trial, tried), step.device
            )
        self.allocator = config.allocator
        if config.allocator == "auto":
            self.allocator = precision.choose_allocator(lambda: step.try_out(trial))
        else:
            keep_large_blocks(config.allocator == "keep")


class _Training:
    """One attempt at a run; `clock` has claimed it on resume."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        directory: Path,
        clock: Clock | None = None,
        found: Checkpoint | None = None,
        old: dict[str, Any] | None = None,
        *,
        branch: bool = False,
    ) -> None:
        self.task, self.config, self.directory, self.found = task, config, directory, found
        self.old, self.is_branch = old, branch
        self.ready = Preparation(task, config, found, branch=branch)
        self.step, self.averages = self.ready.step, self.ready.averages
        self.stop, self.reason = Stop(), ""
        self.clock = clock or Clock(directory, config=config_to_dict(config))
        self.checkpoints = directory / FOLDER
        self.saved = found.tick if found else None
        self.branch = checkpoint_folder.newest_branch(self.checkpoints) + branch
        self.machine = describe_machine()
        self.measures: dict[str, float] = {}

    def run(self) -> Outcome:
        """Train to the planned end, or until a signal or a hook ends it."""
        config, initial = self.config, self.found.tick if self.found else 0
        test: dict[str, float] = {}
        with self.stop as stop, self.clock as clock:
            say_what_starts(self.ready, self.directory)
            self._begin(clock)
            best = checkpoint_folder.best_score(self.checkpoints)
            due = self._state(initial) if self.is_branch else None
            beats = windows(self.ready.beats, config.micro_batches, count=self.task.count)
            for window in clock.ticks(beats, total=config.ticks, initial=initial):
                if due:  # only now is the record of that tick on the tape, so no kill parts them
                    self._save(clock, due)
                last = clock.tick == config.ticks
                with self._around(clock, last=last):
                    self.step.tick(clock, window)
                self.averages.update(clock.tick)
                score = None
                if last or clock.tick % config.evaluate_every == 0:
                    score = self._evaluate(clock)
                self._run_hooks(clock, last=last)
                if last and not stop.signal:
                    test = self._test(clock)
                if stop.signal:
                    clock.event("signal", signal=stop.signal.name)
                if stop.signal or self.reason:
                    clock.stop()
                to_save = last or clock.tick % config.checkpoint_every == 0 or bool(stop.signal)
                if score is not None and score < best:
                    best, to_save = score, True
                due = self._state(clock.tick, score) if to_save or self.reason else None
            if due:
                self._save(clock, due)
        return Outcome(
            self.directory,
            clock.tick,
            self.measures,
            test,
            stop.signal,
            self.reason or None,
            self.saved,
        )

    def _begin(self, clock: Clock) -> None:
        clock.event("machine", precision=self.step.precision, allocator=self.ready.allocator)
        try:
            self.saved_by_task = self._save_by_task()
            self.checkpoints.mkdir(exist_ok=True)
            write_toml(self.directory / CONFIG_FILE, self.config)
        except OSError as error:
            raise RunError(
                "a run's directory must be writable and have room",
                got=f"{self.directory}: {error.strerror or error}",
            ) from None
        if self.old is None:
            return
        found = [change for change in changes(self.old, self.config) if change.name != "data_id"]
        for change in found:
            if change.name == "ticks":
                _log.warning("the learning rate's schedule ends at tick %d now", change.after)
        clock.event(
            "branch" if self.is_branch else "resume",
            checkpoint=self.found.path.name if self.found else None,
            changed=[str(change) for change in found],
        )

    def _save_by_task(self) -> dict[str, Any]:
        if self.task.save is None:
            return {}
        kept = self.found.state if self.found else {}
        return dict(self.task.save(self.directory, kept) or {})

    def _evaluate(self, clock: Clock) -> float | None:
        """The score, lower is better; None without validation, or if a signal came first."""
        if self.task.validation is None:
            return None
        with clock.phase("evaluate"):
            measures = self._measure(self.task.validation())
            for kind in self.averages.ready(clock.tick):
                with self.averages.in_place(kind):
                    averaged = self._measure(self.task.validation())
                measures |= {f"{name}_{kind}": value for name, value in averaged.items()}
        if self.stop.signal:
            return None
        self.measures = measures
        clock.log(**{f"validation_{name}": value for name, value in measures.items()})
        if self.config.best not in measures:
            raise ConfigError(
                "best must be one of the measures",
                got=repr(self.config.best),
                fix=f"one of {', '.join(measures)}",
            )
        value = measures[self.config.best]
        return -value if self.config.best_mode == "max" else value

    def _measure(self, batches: Iterable[Any]) -> dict[str, float]:
        watched = self.stop.until_signal(batches)
        try:
            return evaluate(self.step.model, watched, self.step.sums, self.task.count)
        except DataError:
            if self.stop.signal:  # which came before the first batch
                return {}
            raise

    def _test(self, clock: Clock) -> dict[str, float]:
        if self.task.test is None:
            return {}
        with clock.phase("evaluate"):
            measures = self._measure(self.task.test())
        if self.stop.signal:
            return {}
        clock.log(**{f"test_{name}": value for name, value in measures.items()})
        clock.event("test", **measures)
        return measures

    def _around(self, clock: Clock, *, last: bool) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        for hook in self.task.hooks:
            if hook.around is not None and hook.is_due(clock.tick, last=last):
                stack.enter_context(hook.around(self._moment(clock, last=last)))
        return stack

    def _run_hooks(self, clock: Clock, *, last: bool) -> None:
        for hook in self.task.hooks:
            if hook.is_due(clock.tick, last=last) and not self.stop.signal:
                with clock.phase(hook.phase):
                    hook.run(self._moment(clock, last=last))

    def _moment(self, clock: Clock, *, last: bool) -> Moment:
        def stop(reason: str) -> None:
            self.reason = reason
            clock.event("stop", reason=reason)

        return Moment(
            tick=clock.tick,
            last=last,
            clock=clock,
            model=self.step.model,
            optimizer=self.step.optimizer,
            directory=self.directory,
            measures=self.measures,
            stop=stop,
            until_signal=self.stop.until_signal,
            interrupted=lambda: self.stop.signal is not None,
        )

    def _state(self, tick: int, score: float | None = None) -> dict[str, Any]:
        """What a resumed run needs beside tensors, as it is at the end of this tick."""
        return {
            "tick": tick,
            "branch": self.branch,
            "config": config_to_dict(self.config),
            "precision": self.step.precision,
            "sampler": self.ready.beats.state_dict(),
            "data_id": self.config.data_id or None,
            "machine": self.machine,
            "score": score,
            "measures": self.measures if score is not None else {},
            **self.saved_by_task,
        }

    def _save(self, clock: Clock, state: dict[str, Any]) -> None:
        with clock.phase("checkpoint"):
            clock.flush()
            try:
                path = checkpoint_folder.save(
                    self.checkpoints,
                    model=self.step.model,
                    optimizer=self.step.optimizer,
                    state=state,
                    tensors=self.averages.tensors(),
                )
            except OSError as error:
                _log.warning("no checkpoint at tick %d: %s", state["tick"], error)
                clock.event("checkpoint failed", error=str(error))
                return
            self.saved = state["tick"]
            clock.event("checkpoint", path=path.name)
            try:
                checkpoint_folder.prune(self.checkpoints, self.config.keep, tick=self.saved)
            except OSError as error:
                _log.warning("an old checkpoint cannot be removed: %s", error)
