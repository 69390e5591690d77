"""A callback that records the ticks of a `transformers.Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import MissingDependencyError
from metronorm.integrations.recording import Recording
from metronorm.integrations.steps import DATA

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "transformers":
        raise
    raise MissingDependencyError(
        "this needs the package transformers", fix="pip install 'transformers>=5'"
    ) from None

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from transformers import TrainerControl, TrainerState, TrainingArguments


class TickCallback(Recording, TrainerCallback):
    """Records every optimizer step as a tick: `Trainer(..., callbacks=[TickCallback(directory)])`.

    Args:
        directory: the run. New, or one that is continued: as a new attempt, when the Trainer
            resumes from a checkpoint or this callback is used for a second training.
        resume: continue the run in any case; ticks count on from its last one.
        name: what to call the run; the directory's name by default.
        config: what to put beside the `TrainingArguments` in the run's config.

    Phases: `data` (all batches of the tick), `forward_backward` (clipping included: no event lies
    between), `update`, `evaluate`, `checkpoint`. `beats` are the batches that were accumulated.

    Metrics are what the Trainer logs, under the tick it logs them for, and `epoch`. Its `loss` is
    the mean over the ticks since it logged last: the loss of one tick is in no callback's reach, so
    for that let it log every tick (`logging_steps=1`). `tokens` need
    `include_num_input_tokens_seen`; they are those of all ranks, on the record of the first. What
    it logs of the whole training becomes the event `trained`; what it logs before the first tick,
    and what is no number, the event `logged`.

    Where `auto_find_batch_size` begins again with smaller batches, as memory was too small, so does
    the count: a new attempt, whose ticks are the Trainer's steps.

    A tick is on record when all is said that the Trainer announces for it; with strategies that act
    on epochs, when the next one begins. The Trainer tells no callback of an exception: the end of
    the run is written when the callback trains again, goes, or the process ends.

    Raises:
        RunError: when training begins, what `Clock` raises.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        resume: bool = False,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(directory, resume=resume, name=name, config=config)
        self._offset = 0
        self._batch_size = 0
        self._beats = 0
        self._tokens = 0
        self._evaluated = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run."""
        # `auto_find_batch_size` has found no memory, and begins again with fewer
        again = False
        if self._steps is not None:  # an exception left it
            self._steps.abandon()
            again = (state.train_batch_size or 0) < self._batch_size
        start = state.global_step + (self._offset if again else 0)
        config = _arguments(args) | dict(self._config)
        steps = self._record(start=start, config=config, again=again)
        self._batch_size = state.train_batch_size or 0
        self._offset = steps.clock.tick - state.global_step
        self._tokens = state.num_input_tokens_seen
        self._beats = 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Between epochs nothing waits for data."""
        if self._steps is not None:
            self._steps.assign_elapsed(None)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a tick: its batches are there."""
        if self._steps is not None and not self._steps.running:
            self._steps.begin(state.global_step + 1 + self._offset)
            self._steps.phase("forward_backward")
            self._evaluated = False

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a batch."""
        self._beats += 1

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The gradient is there, and clipped."""
        if self._steps is not None:
            self._steps.phase("update")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The parameters are updated."""
        if self._steps is None:
            return
        self._steps.end_work(beats=self._beats + 1)
        self._beats = 0
        self._steps.log({"epoch": state.epoch})
        if args.include_num_input_tokens_seen != "no" and state.is_world_process_zero:
            self._steps.log({"tokens": state.num_input_tokens_seen - self._tokens})
        self._tokens = state.num_input_tokens_seen
        self._expect(args, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put down what the Trainer logs."""
        if self._steps is None or not logs:
            return
        if {"train_loss", "train_runtime"} <= logs.keys():
            self._steps.clock.event("trained", values=dict(logs))
            return
        if any(name.startswith("eval_") for name in logs):
            self._evaluated = True
            self._steps.assign_elapsed("evaluate")
        self._steps.log(logs)
        self._expect(args, control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An evaluation is over."""
        if self._steps is not None:
            self._steps.assign_elapsed("evaluate")
            self._expect(args, control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A checkpoint is written."""
        if self._steps is not None:
            self._steps.assign_elapsed("checkpoint")
            path = Path(args.output_dir or "").absolute() / f"checkpoint-{state.global_step}"
            self._steps.clock.event("checkpoint", path=str(path))
            self._evaluated = False  # a checkpoint comes last
            self._expect(args, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An evaluation or a checkpoint may follow."""
        if self._steps is not None:
            self._expect(args, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the run."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _expect(self, args: TrainingArguments, control: TrainerControl) -> None:
        """What the Trainer does next; if that is to go on, the tick is over."""
        assert self._steps is not None
        if control.should_log:
            self._steps.phase(None)
        elif control.should_evaluate:
            self._steps.phase("evaluate")
        elif control.should_save:
            self._steps.phase("checkpoint")
        else:
            self._steps.phase(DATA)
            if not self._evaluated and not _acts_on_epochs(args):
                self._steps.write()


def _acts_on_epochs(args: TrainingArguments) -> bool:
    strategies = (args.logging_strategy, args.eval_strategy, args.save_strategy)
    return any(strategy == "epoch" for strategy in strategies)


def _arguments(args: TrainingArguments) -> dict[str, Any]:
    values: dict[str, Any] = args.to_dict()  # type: ignore[no-untyped-call]
    return {name: value for name, value in values.items() if not name.endswith("_token")}
