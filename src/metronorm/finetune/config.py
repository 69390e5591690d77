"""What can be chosen about fine-tuning a pretrained model. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, get_args

import tyro

from metronorm.errors import ConfigError
from metronorm.finetune.data_config import DataConfig, TaskName, absolute_paths
from metronorm.finetune.ways import AdaptConfig
from metronorm.text import parse_size
from metronorm.train.config import (
    OptimizerConfig,
    OptimizerName,
    TrainConfig,
    check_choice,
    check_count,
    on_resume,
)
from metronorm.train.config_changes import run_config

# Highest learning rates of AdamW, for models of 0.1 to 1 billion parameters. Full: between what
# SmolLM2's smallest was fine-tuned with (1e-3, over far more data) and the 2e-5 of larger models.
# LoRA: about ten times as much (Schulman, "LoRA Without Regret", 2025). Norms: one number scales a
# whole row of weights, and moves by hundredths.
_RATES = {"full": 1e-4, "lora": 1e-3, "norm": 3e-3, "head": 1e-3, "norm+head": 3e-3}
_ENCODER = 0.3  # of these rates: encoders are fine-tuned with 2e-5 to 5e-5
_SIGN = 0.5  # every element moves by the whole rate, where Adam's mostly move less (measured)

STOPS = 16
"""Prompts that a model answers, where nothing else is chosen."""


_WRITERS, _CLASSIFIERS = ("chat", "text"), ("classify",)
_ONLY = {  # options that others would pass over, and the tasks that heed them
    "turns": ("chat",),
    "prompt_weight": _WRITERS,
    "general": _WRITERS,
    "stops": _WRITERS,
    "loss_chunk": _WRITERS,
    "class_weights": _CLASSIFIERS,
    "l2": _CLASSIFIERS,
    "recipe": (),
}


@dataclass(frozen=True)
class Config(TrainConfig):
    """A fine-tuning.

    Raises:
        ConfigError: a value that cannot work, or that does not go with another.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = on_resume(
        "free", ""
    )
    """Directory of a pretrained model in Hugging Face layout (config.json and safetensors), or a
    GGUF file."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(
        default_factory=DataConfig,
        metadata={"on_resume": {"data": "data", "validation_data": "data"}},
    )
    task: TaskName = "chat"
    """What to learn. chat: the answers of conversations, by the tokenizer's own template; text:
    texts as they are, or completions after their prompts; classify: the labels of texts."""
    adapt: Annotated[AdaptConfig, tyro.conf.arg(name="")] = field(default_factory=AdaptConfig)
    context: int = 0
    """Most tokens of a row, and of a pack of rows. 0: 512, or the model's if that is less."""
    general: tuple[str, ...] = on_resume("free", ())
    """Files or folders of text of another kind, to evaluate on before and after: the perplexity
    shows what was forgotten. Of much text about 32,000 tokens are taken, evenly spread."""
    stops: int = on_resume("free", STOPS)
    """Prompts of the rows that were held out, for the model to answer by itself before and after:
    how often does an answer stop within twice its length, or 64 tokens? 0: leave this out."""
    memory: str = on_resume("free", "")
    """Most memory to take, such as 3GiB. The fastest that fits is chosen before the first tick:
    smaller micro-batches of the same tick, fewer rows of logits at once, activations computed
    again. Nothing: no limit."""
    loss_chunk: int = 0
    """Rows of logits that exist at once. 0: as many as take 128 MiB."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "general", absolute_paths("general", self.general))
        check_count("stops", self.stops, 0)
        check_count("loss_chunk", self.loss_chunk, 0)
        if self.memory:
            parse_size(self.memory)
        check_choice("task", self.task, get_args(TaskName))
        check_count("context", self.context, 0)
        _check_heeded(self)
        if self.task != "classify" and "head" in self.adapt.way:
            raise ConfigError(
                f"way {self.adapt.way} is for task classify",
                got=f"task {self.task}",
                fix="--way norm, lora or full",
            )
        if self.adapt.way == "head" and (self.ticks != 1 or self.minutes):
            raise ConfigError(
                "way head is solved at once, in one tick",
                got=f"minutes={self.minutes:g}" if self.minutes else f"ticks={self.ticks}",
                fix="--ticks 1, without --minutes",
            )
        if "head" in self.adapt.way and self.parallel == "fsdp":
            raise ConfigError(
                "a head is solved on whole weights", got="parallel=fsdp", fix="--parallel ddp"
            )
        if self.model:
            object.__setattr__(self, "model", str(Path(self.model).expanduser().absolute()))


def _check_heeded(config: Config) -> None:
    """Raise ConfigError if an option is set that nothing in this fine-tuning would heed."""
    for part in (config, config.data, config.adapt):
        for each in fields(part):
            tasks, value = _ONLY.get(each.name, (config.task,)), getattr(part, each.name)
            if value != each.default and config.task not in tasks:
                raise ConfigError(
                    f"{each.name} is for {' and '.join(tasks) or 'metronorm train'}",
                    got=f"{each.name}={value!r} with task {config.task}",
                )


def is_tuned_run(run: Path) -> bool:
    """Whether a run is a fine-tuning.

    Raises:
        RunError: there is no run.
    """
    return "adapt" in run_config(run)


def is_pretrained(path: Path) -> bool:
    """Whether there is a model's directory or file in this place, and no run."""
    if (path / "run.json").exists():
        return False
    return path.suffix == ".gguf" or (path / "config.json").exists() or any(path.glob("*.gguf"))


def defaults(task: TaskName, adapt: AdaptConfig, optimizer: OptimizerName = "adamw") -> Config:
    """The config of a task and a way to adapt, where nothing else is chosen."""
    classify = task == "classify"
    rate = _RATES[adapt.way] * (_ENCODER if classify else 1) * (_SIGN if "sign" in optimizer else 1)
    return Config(
        task=task,
        adapt=adapt,
        optimizer=OptimizerConfig(
            name=optimizer,
            learning_rate=float(f"{rate:.1g}"),
            betas=(0.9, 0.999),
            weight_decay=0.0,
            warmup=0.1,
            # a sign is as large whatever the norm is, and to know the norm takes one more buffer
            clip=0.0 if optimizer in ("ticks_adam", "ticks_sign") else 1.0,
        ),
        ticks=1 if adapt.way == "head" else 200,
        batch_size=16 if classify else 1,
        micro_batches=1 if classify else 4,
        evaluate_every=50,
        checkpoint_every=50,
        keep=1,
    )
