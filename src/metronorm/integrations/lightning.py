"""A callback and a logger that record the ticks of a `lightning.pytorch.Trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.integrations.axes import step_of
from metronorm.integrations.recording import Recording
from metronorm.integrations.steps import DATA

try:
    from lightning.pytorch.callbacks import Callback

    from metronorm.integrations.lightning_logger import TickLogger
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lightning":
        raise
    raise MissingDependencyError(
        "this needs the package lightning", fix="pip install 'lightning>=2.5'"
    ) from None

if TYPE_CHECKING:
    import os

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer


__all__ = ["TickCallback", "TickLogger"]

_KEY = "metronorm"  # in a checkpoint


class TickCallback(Recording, Callback):
    """Records every optimizer step of `Trainer.fit` as a tick.

    Args:
        directory: the run; None with a `TickLogger` in the trainer, whose run it is then.
        resume: continue the run in any case; ticks count on from its last one.
        name: what to call the run; the directory's name by default.
        config: what to put into the run's config beside the trainer's own values.

    Phases: `data`, `forward` (`zero_grad` included), `backward`, `update` (clipping included),
    `evaluate`, `checkpoint`. `beats` are the batches that were accumulated. `loss` is the mean of
    what `training_step` returned for them, and waits for no device. All other metrics take a
    `TickLogger`. Ticks are numbered as `trainer.global_step`. With manual optimization, where that
    counts the steps of all optimizers, a tick is a batch in which one stepped, and what follows
    that step in it counts to `update`. A checkpoint holds the number of its tick, and a training
    that resumes from it goes on from there.

    A tick is written when the next one begins, or `fit` ends, by an exception too. Only `fit` is
    recorded; a second one goes on with the run, as a new attempt.

    Raises:
        ConfigError: neither a directory nor a `TickLogger`, or both, when `fit` begins.
        RunError: then too, what `Clock` raises.
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
        self._updates = 0
        self._done = 0  # ticks, when training has ended
        self._restored: int | None = None  # ticks, in the checkpoint that was loaded
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
        config = _trainer_config(trainer) | dict(self._config)
        # (of a checkpoint without the number, a batch with steps of several optimizers is a tick)
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
        """Between epochs nothing waits for data."""
        if self._steps is not None:
            self._steps.assign_elapsed(None)

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
        """The loss is there."""
        self._phase("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The gradient is there."""
        self._phase("forward" if not pl_module.automatic_optimization else None)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """The parameters are going to be updated."""
        self._phase("update")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """A beat is over, and perhaps the tick."""
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
            # Lightning has divided them by the number of batches that a full window has
            mean = sum(self._losses) * (trainer.accumulate_grad_batches / len(self._losses))
            self._steps.log({"loss": mean})
        self._beats, self._losses = 0, []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation begins, and was prepared."""
        if self._steps is not None:
            self._steps.assign_elapsed("evaluate")
            self._steps.phase("evaluate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation is over."""
        self._phase(DATA)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint is going to be written, and was prepared."""
        checkpoint[_KEY] = {"tick": self._ticks_done(trainer)}
        if self._steps is not None:
            self._steps.assign_elapsed("checkpoint")
            self._steps.clock.event("checkpoint")
            self._steps.phase("checkpoint")

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Training goes on from a checkpoint: the ticks that are done."""
        self._restored = step_of(checkpoint.get(_KEY, {}).get("tick"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What came after the last batch was no wait."""
        if self._steps is not None:
            self._steps.assign_elapsed(None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the run, with what ended it."""
        self._close(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the run, unless it is a logger's."""
        self._close(None)

    def _ticks_done(self, trainer: Trainer) -> int:
        if self._steps is None:
            return self._done
        has_stepped = trainer.global_step != self._updates
        return self._steps.clock.tick - (self._steps.running and not has_stepped)

    def _phase(self, name: str | None) -> None:
        if self._steps is not None:
            self._steps.phase(name)

    def _close(self, error: BaseException | None) -> None:
        if self._steps is not None:
            self._done = self._steps.clock.tick
        if self._steps is not None and (error is not None or self.directory is not None):
            self._steps.close(error)
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
