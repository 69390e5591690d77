"""Fine-tuning of pretrained models: loading, the ledger of the data, adapters, proven export.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.finetune.config import Config, defaults
from metronorm.finetune.data_config import DataConfig
from metronorm.finetune.ways import AdaptConfig

if TYPE_CHECKING:
    from metronorm.finetune.finishing import Finished
    from metronorm.finetune.tuned_run import TunedRun

__all__ = ["AdaptConfig", "Config", "DataConfig", "defaults", "finetune", "load_tuned"]


def finetune(config: Config, directory: Path | str, **options: Any) -> Finished:
    """Adapt a pretrained model to data, and keep everything in the run `directory`.

    Args:
        config: the model, the data and how to adapt; begin with `defaults`.
        directory: of the run; a new one, or with `resume` one that is there.
        options: see `metronorm.finetune.finishing.finetune`, also for what is raised.

    Returns:
        How the training ended, the figures of the rows held out before and after, and the proof of
        the saved model.
    """
    from metronorm.finetune.finishing import finetune as run

    return run(config, Path(directory), **options)


def load_tuned(run: Path | str, **options: Any) -> TunedRun:
    """The model that a run has trained; see `metronorm.finetune.tuned_run.load_tuned`."""
    from metronorm.finetune.tuned_run import load_tuned as load

    return load(Path(run), **options)
