"""What is tuned: a config, and how a task is made of it again and again in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from metronorm.train.config import TrainConfig
from metronorm.train.config_changes import config_to_dict
from metronorm.train.task import Task

_READ = ("model", "data", "task", "context", "general")  # options that decide what is read


@dataclass(frozen=True)
class Subject:
    """What is tuned.

    Args:
        config: that trials begin with.
        task: makes the task of a config; `resume` says whether its run goes on.
        around: a context for a trial, in which an error may be told in more words.
        quiet: options that trials have otherwise than the config, as nobody looks at each of them:
            none of them changes what is learned.
    """

    config: TrainConfig
    task: Callable[..., Task]
    around: Callable[[TrainConfig], AbstractContextManager[object]] = contextlib.nullcontext
    quiet: Mapping[str, Any] = field(default_factory=lambda: {"keep": 1})


def training(config: TrainConfig, task: Callable[[Any], Task]) -> Subject:
    """A training of text or of a recipe. Its trials print no samples, and keep one checkpoint."""
    quiet = {"keep": 1} | ({"sample_every": 0} if hasattr(config, "sample_every") else {})
    return Subject(config, lambda config, resume=False: task(config), quiet=quiet)


def finetuning(config: Any) -> Subject:
    """A fine-tuning: what it reads is kept for the next trial that has the same data.

    So is the head that a classifier begins with: solved on as many texts as a whole trial reads, as
    that of few texts would tell little about longer trials, and once.
    """
    from metronorm.finetune.task import naming_rows, read, shared_head, task_of  # loads torch

    kept: dict[str, Any] = {}
    heads: dict[str, Any] = {}

    def data(config: Any) -> Any:
        plain = config_to_dict(config)
        key = str([plain[name] for name in _READ])
        if key not in kept:
            kept.clear()
            kept[key] = read(config)
        return kept[key]

    def around(config: Any) -> AbstractContextManager[object]:
        return naming_rows(config, data(config))

    def head(trial: Any) -> Any:
        plain, adapt = config_to_dict(trial), trial.adapt
        of_head = (plain["seed"], adapt.way, adapt.body, adapt.l2)
        key = str([*(plain[name] for name in _READ), *of_head])
        return heads.setdefault(key, shared_head(config))

    def task(config: Any, resume: bool = False) -> Task:
        return task_of(config, data(config), resume=resume, head=head(config))

    return Subject(config, task, around)
