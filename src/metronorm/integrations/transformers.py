"""A callback that records the ticks of a `transformers.Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.integrations._packages import needs
from metronorm.integrations.recording import Recording
from metronorm.integrations.steps import DATA

with needs("transformers", fix="pip install 'transformers>=5'"):
    from transformers import TrainerCallback

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from transformers import TrainerControl, TrainerState, TrainingArguments


class TickCallback(Recording, TrainerCallback):
    """Records every optimizer step as a tick: `Trainer(..., callbacks=[TickCallback(directory)])`.

    Args:
        directory: the run's directory. An existing run is continued, as a new attempt, if the
            Trainer resumes from a checkpoint or this callback is used for a second training.
        resume: continue an existing run in any case; ticks count on from its last one.
        name: the run's name; by default the directory's name.
        config: values for the run's config, beside the `TrainingArguments`.

    Phases: `data` (all batches of the tick), `forward_backward` (with clipping, as the Trainer has
    no hook between), `update`, `evaluate`, `checkpoint`. `beats` are the accumulated batches.

    Metrics are what the Trainer logs, under the tick that it logs them for, and `epoch`. Its `loss`
    is the mean over the ticks since its last log. No callback can see the loss of one tick, so let
    the Trainer log every tick (`logging_steps=1`) if you need it. `tokens` need
    `include_num_input_tokens_seen`; they are counted over all ranks, and are on the record of rank
    0. What the Trainer logs about the whole training becomes the event `trained`. What it logs
    before the first tick, and what is not a number, becomes the event `logged`.

    `auto_find_batch_size` begins again with smaller batches when memory was too small. Then the
    ticks begin again too: a new attempt, and its ticks are the Trainer's steps.

    A tick is on record when the Trainer has done what it announces for it; with strategies that act
    on epochs, when the next tick begins. The Trainer does not report exceptions to callbacks: the
    end of the run is written when the callback trains again, when it is collected as garbage, or
    when the process ends.

    Raises:
        RunError: what `Clock` raises, when training begins.
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
        self._offset = 0  # what a tick's number is larger by than the Trainer's step
        self._batch_size = 0
        self._beats = 0
        self._tokens = 0  # all tokens up to the last tick
        self._has_evaluated = False  # in the open tick

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run."""
        again = False
        if self._steps is not None:  # an exception has ended the training before
            self._steps.abandon()
            # smaller batches: `auto_find_batch_size` has run out of memory
            again = (state.train_batch_size or 0) < self._batch_size
        start = state.global_step + (self._offset if again else 0)
        steps = self._record(start=start, config=_arguments(args) | self._config, again=again)
        self._batch_size = state.train_batch_size or 0
        self._offset = steps.clock.tick - state.global_step
        self._tokens = state.num_input_tokens_seen
        self._beats = 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the time between epochs to no phase: it is no wait for data."""
        self._assign_elapsed(None)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a tick: its batches have arrived."""
        if self._steps is not None and not self._steps.running:
            self._steps.begin(state.global_step + 1 + self._offset)
            self._steps.phase("forward_backward")
            self._has_evaluated = False

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a batch."""
        self._beats += 1

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the phase `update`: the gradient is complete and clipped."""
        self._phase("update")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log what is known of the tick: the parameters are updated."""
        if self._steps is None:
            return
        self._steps.end_work(beats=self._beats + 1)
        self._beats = 0
        self._steps.log({"epoch": state.epoch})
        if args.include_num_input_tokens_seen != "no" and state.is_world_process_zero:
            self._steps.log({"tokens": state.num_input_tokens_seen - self._tokens})
        self._tokens = state.num_input_tokens_seen
        self._begin_announced_phase(args, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record what the Trainer logs."""
        if self._steps is None or not logs:
            return
        if {"train_loss", "train_runtime"} <= logs.keys():
            self._steps.clock.event("trained", values=dict(logs))
            return
        if any(name.startswith("eval_") for name in logs):
            self._has_evaluated = True
            self._assign_elapsed("evaluate")
        self._steps.log(logs)
        self._begin_announced_phase(args, control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the phase `evaluate`."""
        if self._steps is not None:
            self._steps.assign_elapsed("evaluate")
            self._begin_announced_phase(args, control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the checkpoint, which is written by now."""
        if self._steps is not None:
            self._steps.assign_elapsed("checkpoint")
            path = Path(args.output_dir or "").absolute() / f"checkpoint-{state.global_step}"
            self._steps.clock.event("checkpoint", path=str(path))
            self._has_evaluated = False  # nothing follows a checkpoint
            self._begin_announced_phase(args, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the evaluation or the checkpoint that may follow an epoch."""
        if self._steps is not None:
            self._begin_announced_phase(args, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the run."""
        self._close()

    def _begin_announced_phase(self, args: TrainingArguments, control: TrainerControl) -> None:
        """Begin the phase that `control` announces; if it announces none, the tick is over."""
        assert self._steps is not None
        if control.should_log:
            self._steps.phase(None)
        elif control.should_evaluate:
            self._steps.phase("evaluate")
        elif control.should_save:
            self._steps.phase("checkpoint")
        else:
            self._steps.phase(DATA)
            if not self._has_evaluated and not _acts_on_epochs(args):
                self._steps.write()


def _acts_on_epochs(args: TrainingArguments) -> bool:
    strategies = (args.logging_strategy, args.eval_strategy, args.save_strategy)
    return any(strategy == "epoch" for strategy in strategies)


def _arguments(args: TrainingArguments) -> dict[str, Any]:
    values: dict[str, Any] = args.to_dict()  # type: ignore[no-untyped-call]
    return {name: value for name, value in values.items() if not name.endswith("_token")}
