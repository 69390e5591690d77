"""A GPT on text: its config and presets, its task, and text from its runs.

    from metronorm.tasks import text
    from metronorm.train import train

    train(text.task, text.training_preset("quick"), "runs/shakespeare")

Importing this package loads no torch; `task` and `generate_text` do when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.tasks.text.config import Config, without_cache
from metronorm.tasks.text.presets import training_preset

if TYPE_CHECKING:
    from metronorm.tasks.text.sampling import generate_text, load_model
    from metronorm.train.task import Task

__all__ = ["Config", "generate_text", "load_model", "task", "training_preset", "without_cache"]


def task(config: Config) -> Task:
    """The task of a config; see `metronorm.tasks.text.gpt_task.task`."""
    from metronorm.tasks.text.gpt_task import task as make

    return make(config)


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name not in ("generate_text", "load_model"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metronorm.tasks.text import sampling

    return getattr(sampling, name)
