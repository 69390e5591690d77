"""A fine-tuned model, put together again: its base model's files and what a run trained of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metronorm.checkpoints.checkpoint import FOLDER
from metronorm.checkpoints.folder import best_checkpoint, newest_checkpoint
from metronorm.errors import ConfigError
from metronorm.finetune.base import check_frozen, frozen_id
from metronorm.finetune.config import Config, is_tuned_run
from metronorm.finetune.task import load_adapted
from metronorm.finetune.tuned import Tuned
from metronorm.train.config_changes import config_from_dict

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.finetune.adapting import Adapted


class TunedRun(NamedTuple):
    """A fine-tuned model.

    Attributes:
        adapted: the model as it was trained, in evaluation mode.
        config: of its run.
        checkpoint: that it is of.
    """

    adapted: Adapted
    config: Config
    checkpoint: Checkpoint


def load_tuned(run: Path, *, best: bool = True, average: str | None = None) -> TunedRun:
    """The model that a run has trained.

    Args:
        run: directory of the run.
        best: the checkpoint with the best evaluation, if one was evaluated and is whole; else the
            newest whole one.
        average: an average of what was trained instead: "ema" or "last".

    Raises:
        RunError: no run there.
        CheckpointError: no whole checkpoint, or one without that average.
        DataError: the base model is not where it was, or is another one.
    """
    found, config = checkpoint_of(run, best=best)
    adapted = load_adapted(config, tuple(found.state.get("labels", ())))
    put_trained(adapted, found, config, average=average)
    return TunedRun(adapted, config, found)


def checkpoint_of(run: Path, *, best: bool = True) -> tuple[Checkpoint, Config]:
    """A checkpoint of a run, and the config that it was made with; as `load_tuned`."""
    if not is_tuned_run(run):
        raise ConfigError("this is for fine-tuned models", got=f"{run}, a run of another task")
    folder = run / FOLDER
    found = (best_checkpoint(folder) if best else None) or newest_checkpoint(folder)
    return found, config_from_dict(found.state["config"], Config)


def put_trained(
    adapted: Adapted, found: Checkpoint, config: Config, *, average: str | None = None
) -> None:
    """Put what a checkpoint has into an adapted model, which is then in evaluation mode.

    Raises:
        CheckpointError: another model's, or one without that average.
        DataError: what was not trained is another model's.
    """
    check_frozen(found.state["frozen"], frozen_id(adapted), config.model)
    found.load_model(Tuned(adapted), average=average)
    adapted.pretrained.model.eval()
