"""A callback and a logger that record the ticks of a `lightning.pytorch.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError
from metronorm.integrations._packages import needs
from metronorm.integrations.axes import step_of
from metronorm.integrations.recording import Recording
from metronorm.integrations.steps import DATA

with needs("lightning", fix="pip install 'lightning>=2.5'"):
    from lightning.pytorch.callbacks import Callback

    from metronorm.integrations.lightning_logger import TickLogger

if TYPE_CHECKING:
    import os

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer


__all__ = ["TickCallback", "TickLogger"]

_KEY = "metronorm"  # our key in a checkpoint


class TickCallback(Recording, Callback):
    """Records every optimizer step of `Trainer.fit` as a tick.

    Args:
        directory: the run's directory; None if the trainer has a `TickLogger`, which has the run.
        resume: continue an existing run in any case; ticks count on from its last one.
        name: the run's name; by default the directory's name.
        config: values for the run's config, beside the trainer's own values.

    Phases: `data`, `forward` (with `zero_grad`), `backward`, `update` (with clipping), `evaluate`,
    `checkpoint`. `beats` are the accumulated batches. `loss` is the mean of what `training_step`
    returned for them; the training thread does not wait for a device to get it. All other metrics
    need a `TickLogger`. Ticks have the numbers of `trainer.global_step`. With manual optimization
    that counts the steps of all optimizers. There, a tick is a batch in which an optimizer stepped,
    and what follows its last step in this batch counts to `update`. A checkpoint holds the number
    of its tick, and a training that resumes from it continues from there.

    A tick is written when the next one begins, or when `fit` ends, also by an exception. Only `fit`
    is recorded; a second `fit` continues the run as a new attempt.

    Raises:
        ConfigError: when `fit` begins: there is neither a directory nor a `TickLogger`, or both.
        RunError: what `Clock` raises, when `fit` begins.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        resume: bool = False,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(directory, resume=resume, name=name, config=config)
        self._updates = 0  # `trainer.global_step` after the last tick
        self._finished_ticks = 0  # the number of the last tick, when training has ended
        self._restored: int | None = None  # the number of the tick in the loaded checkpoint
        self._beats = 0
        self._losses: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TickLogger)]
        if bool(loggers) == (self.directory is not None):
            raise ConfigError(
                "TickCallback needs a directory or a TickLogger in the trainer",
                got="both" if loggers else "neither",
                fix="Trainer(logger=TickLogger('runs/mine'), callbacks=[TickCallback()])",
            )
        config = _trainer_config(trainer) | self._config
        # Without a number from a checkpoint: with several optimizers, a tick is a batch.
        start = min(trainer.global_step, trainer.fit_loop.total_batch_idx + 1)
        start, self._restored = self._restored or start, None
        if loggers:
            self._steps = loggers[0].open(start=start, config=config)
        else:
            config |= dict(pl_module.hparams)
            self._record(start=start, config=config)
        self._updates = trainer.global_step
        self._beats, self._losses = 0, []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the time between epochs to no phase: it is no wait for data."""
        self._assign_elapsed(None)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a tick, or its next beat."""
        if self._steps is None:
            return
        if not self._steps.running:
            self._steps.begin()
        self._steps.phase("forward")

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Begin the phase `backward`: the loss is computed."""
        self._phase("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the phase `backward`: the gradient is computed."""
        self._phase("forward" if not pl_module.automatic_optimization else None)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Begin the phase `update`."""
        self._phase("update")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Finish a beat, and the tick if an optimizer has stepped."""
        if self._steps is None:
            return
        self._beats += 1
        if isinstance(outputs, Mapping) and outputs.get("loss") is not None:
            self._losses.append(outputs["loss"])
        if trainer.global_step == self._updates:
            self._steps.phase(DATA)
            return
        self._updates = trainer.global_step
        self._steps.end_work(beats=self._beats)
        if self._losses:
            # Lightning has divided each loss by the number of batches in a full window.
            mean = sum(self._losses) * (trainer.accumulate_grad_batches / len(self._losses))
            self._steps.log({"loss": mean})
        self._beats, self._losses = 0, []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the phase `evaluate`; the time since the last call was its preparation."""
        self._assign_elapsed("evaluate")
        self._phase("evaluate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the phase `evaluate`."""
        self._phase(DATA)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the tick's number into a checkpoint, which is written after this call."""
        checkpoint[_KEY] = {"tick": self._ticks_done(trainer)}
        if self._steps is not None:
            self._steps.assign_elapsed("checkpoint")
            self._steps.clock.event("checkpoint")
            self._steps.phase("checkpoint")

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the tick's number from the checkpoint that training continues from."""
        self._restored = step_of(checkpoint.get(_KEY, {}).get("tick"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the time after the last batch to no phase: it is no wait for data."""
        self._assign_elapsed(None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the run, with the exception that ended it."""
        self._end(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the run, unless it belongs to a logger."""
        self._end(None)

    def _ticks_done(self, trainer: Trainer) -> int:
        if self._steps is None:
            return self._finished_ticks
        has_stepped = trainer.global_step != self._updates
        return self._steps.clock.tick - (self._steps.running and not has_stepped)

    def _end(self, error: BaseException | None) -> None:
        if self._steps is not None:
            self._finished_ticks = self._steps.clock.tick
        if error is not None or self.directory is not None:
            self._close(error)
        self._steps = None


def _trainer_config(trainer: Trainer) -> dict[str, Any]:
    return {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": trainer.precision,
        "strategy": type(trainer.strategy).__name__,
        "world_size": trainer.world_size,
    }
