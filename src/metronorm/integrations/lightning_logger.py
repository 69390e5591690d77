"""A logger for `lightning.pytorch.Trainer`; import it from `metronorm.integrations.lightning`."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from metronorm.errors import RunError
from metronorm.integrations.recording import Recording

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch import Tensor
    from torch.nn import Module

    from metronorm.clock import Clock
    from metronorm.integrations.steps import Steps


class TickLogger(Recording, Logger):
    """Records what is logged: `Trainer(logger=TickLogger(directory), callbacks=[TickCallback()])`.

    Args:
        directory: the run's directory. An existing run is continued, as a new attempt, if `fit`
            resumes from a checkpoint or this logger is used again.
        resume: continue an existing run in any case; ticks count on from its last one.
        name: the run's name; by default the directory's name.

    With a `TickCallback` in the trainer, metrics go to its ticks: those of `self.log` every
    `log_every_n_steps`, and those of validation under the tick that they were logged in. Without a
    callback every logged step is a tick with the step's number plus 1 (Lightning's step 0 is the
    first tick), and its time is the time since the tick before. Hyperparameters become the run's
    config. What is not a number, and what is logged outside of `fit`, becomes an event `logged`.

    The run is opened when there is something to record, and closed when `fit`, `test` and the like
    end; each of them that records opens its own attempt. Checkpoints without a directory of their
    own are saved into `directory/checkpoints`.

    Raises:
        RunError: what `Clock` raises, when the run is opened.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, resume: bool = False, name: str | None = None
    ) -> None:
        super().__init__(directory, resume=resume, name=name)
        self._is_fit = True
        self._has_callback = False

    @property
    def name(self) -> str:
        """The directory's own name."""
        assert self.directory is not None
        return self.directory.name

    @property
    def version(self) -> str:
        """The empty text: a run is one directory, and a resume adds an attempt to it."""
        return ""

    @property
    def save_dir(self) -> str:
        """The parent of the directory."""
        assert self.directory is not None
        return str(self.directory.parent)

    @property
    def clock(self) -> Clock:
        """The clock, for phases, events and metrics of your own; opens the run."""
        return self.open().clock

    def open(self, *, start: int = 0, config: Mapping[str, Any] | None = None) -> Steps:
        """Open the run unless it is open, and return its steps; `TickCallback` calls this.

        Args:
            start: the number of updates that the training has made already.
            config: values for the run's config, beside the hyperparameters; None from the logger.
        """
        if self._steps is None:
            self._record(start=start, config=dict(config or {}) | self._config)
            self._has_callback = False
        self._has_callback |= config is not None
        assert self._steps is not None
        return self._steps

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Put hyperparameters into the run's config; if the run is open, also into an event."""
        values = vars(params) if isinstance(params, Namespace) else dict(params)
        self._config |= values
        if self._steps is not None:
            self._steps.clock.event("hyperparameters", values=values)

    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Note what begins: Lightning calls this for `fit`, `test` and the like. Record nothing."""
        trainer = getattr(model, "trainer", None)
        self._is_fit = trainer is None or trainer.state.fn == "fit"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record what was logged."""
        steps = self.open()
        if self._has_callback or not self._is_fit:
            steps.log(metrics)
        else:
            steps.log_step(None if step is None else step + 1, metrics)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """End the phase `checkpoint`: the checkpoint is written by now."""
        self._assign_elapsed("checkpoint")

    def finalize(self, status: str) -> None:
        """Close the run, with the present exception if `status` is "failed"."""
        failure = sys.exc_info()[1] or RunError(f"the training ended as {status!r}")
        self._close(failure if status == "failed" else None)
