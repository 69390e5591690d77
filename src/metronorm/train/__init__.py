"""Train any model on any data: one loop, whatever the task.

`task.py` is what a task says of itself, `config.py` what can be chosen, `loop.py` what happens,
`step.py` one tick of it. Importing this package loads no torch; `train` does when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from metronorm.train.config import OptimizerConfig, TrainConfig
from metronorm.train.task import Hook, Moment, Order, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.train.loop import Outcome

__all__ = ["Hook", "Moment", "OptimizerConfig", "Order", "Task", "TrainConfig", "train"]

Config = TypeVar("Config", bound=TrainConfig)


def train(
    task: Task | Callable[[Config], Task],
    config: Config,
    directory: Path | str,
    **options: Any,
) -> Outcome:
    """Train a task and keep everything in the run `directory`.

    Args:
        task: what to train, or a function that makes it of the config.
        config: how to train it.
        directory: of the run; a new one, or with `resume` one that is there.
        options: `resume=True` goes on from the newest checkpoint, and `resume=True, from_tick=N`
            from that of tick N; see `metronorm.train.opening.train`, also for what is raised.

    Returns:
        How it ended: the last tick, the measures, what stopped it.
    """
    from metronorm.train.opening import train as run

    return run(task, config, Path(directory), **options)
