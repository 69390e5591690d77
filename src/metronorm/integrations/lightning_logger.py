"""A logger for `lightning.pytorch.Trainer`; `metronorm.integrations.lightning` has it."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from metronorm.errors import RunError
from metronorm.integrations.steps import Steps

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch import Tensor
    from torch.nn import Module

    from metronorm.clock import Clock


class TickLogger(Logger):
    """Records what is logged: `Trainer(logger=TickLogger(directory), callbacks=[TickCallback()])`.

    Args:
        directory: the run. New, or one that is continued: as a new attempt, when `fit` resumes from
            a checkpoint, or this logger is used again.
        resume: continue the run in any case; ticks count on from its last one.
        name: what to call the run; the directory's name by default.

    With a `TickCallback` in the trainer its ticks get the metrics: those of `self.log`, every
    `log_every_n_steps`, and those of validation, under the tick that they were logged in. Without
    one every logged step is a tick, numbered as there (Lightning's step 0 is the first tick), whose
    time is that since the tick before. Hyperparameters become the run's config. What is no number,
    and what is logged outside of `fit`, becomes an event `logged`.

    The run is opened when something is to be recorded, and closed when `fit`, `test` and the like
    end; each that records opens an attempt of its own. Checkpoints without a directory of their own
    are saved into `directory/checkpoints`.

    Raises:
        RunError: when the run is opened, what `Clock` raises.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, resume: bool = False, name: str | None = None
    ) -> None:
        super().__init__()
        self.directory = Path(directory).absolute()
        self.steps: Steps | None = None
        self._resume = resume
        self._name = name
        self._config: dict[str, Any] = {}
        self._is_fit = True
        self._has_callback = False

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.directory.name

    @property
    def version(self) -> str:
        """Nothing: a run is its directory, and a resume makes an attempt of it."""
        return ""

    @property
    def save_dir(self) -> str:
        """Where the directory lies."""
        return str(self.directory.parent)

    @property
    def clock(self) -> Clock:
        """The clock, for phases, events and metrics of your own; opens the run."""
        return self.open().clock

    def open(self, *, start: int = 0, config: Mapping[str, Any] | None = None) -> Steps:
        """The steps that `TickCallback` tells of; opens the run if it is not.

        Args:
            start: updates that the training has behind it.
            config: what to put beside the hyperparameters in the run's config.
        """
        if self.steps is None:
            self.steps = Steps(
                self,
                self.directory,
                start=start,
                resume=self._resume,
                config=dict(config or {}) | self._config,
                name=self._name,
            )
            self._resume = True  # from now on it is this logger's own run
            self._has_callback = False
        self._has_callback |= config is not None
        return self.steps

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Put them into the run's config, or into an event if there is a run already."""
        values = vars(params) if isinstance(params, Namespace) else dict(params)
        self._config |= values
        if self.steps is not None:
            self.steps.clock.event("hyperparameters", values=values)

    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Lightning calls this when `fit`, `test` and the like begin; nothing is recorded."""
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
        """A checkpoint is written."""
        if self.steps is not None:
            self.steps.assign_elapsed("checkpoint")

    def finalize(self, status: str) -> None:
        """Close the run."""
        if self.steps is not None:
            failure = sys.exc_info()[1] or RunError(f"the training ended as {status!r}")
            self.steps.close(failure if status == "failed" else None)
            self.steps = None
