"""Train a language model: the loop, its configuration, precision, checkpoints.

`config.py` is what can be chosen, `loop.py` what happens, `trainer.py` one tick of it. Importing
this package loads no torch; `train` does when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.train.config import OptimizerConfig, TrainConfig
from metronorm.train.presets import training_preset

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.train.loop import Outcome

__all__ = ["OptimizerConfig", "TrainConfig", "train", "training_preset"]


def train(config: TrainConfig, directory: Path | str, *, resume: bool = False) -> Outcome:
    """Train as `config` says and keep everything in the run `directory`; see `loop.train`."""
    from pathlib import Path

    from metronorm.train.loop import train as run

    return run(config, Path(directory), resume=resume)
