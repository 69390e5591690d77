"""What can be chosen about any training. Imports no framework: the command line shows it.

A task adds its own fields in a subclass of `TrainConfig`. Whether a field may differ when a run is
resumed is said in the field itself, by `on_resume`:

| rule | on resume |
| --- | --- |
| (none) | as it was |
| `"free"` | anything: the parameters do not depend on it |
| `"data"` | anything, if the data's hash is the same |
| `"window"` | anything, if batch_size * micro_batches is the same |
| `"longer"` | any number of ticks that are not done yet, or of minutes: the schedule ends there |
| `"branch"` | anything, from a chosen checkpoint (`from_tick`) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from metronorm.errors import ConfigError
from metronorm.scalars import is_integer, is_number

OptimizerName = Literal["adamw", "ticks", "ticks_sign", "ticks_muon", "ticks_adam"]
Schedule = Literal["cosine", "wsd", "constant"]
Precision = Literal["auto", "fp32", "bf16"]
Allocator = Literal["auto", "system", "keep"]
Parallel = Literal["ddp", "fsdp"]
BestMode = Literal["min", "max"]
ResumeRule = Literal["free", "data", "window", "longer", "branch"]


def on_resume(rule: ResumeRule | dict[str, ResumeRule], default: Any) -> Any:
    """A field of a config with this default, and what may differ when a run is resumed.

    Args:
        rule: one of the table above; of a field that is itself a config, a dict of its fields'
            rules, or one rule for all of them.
        default: the field's default.
    """
    return field(default=default, metadata={"on_resume": rule})


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule.

    Raises:
        ConfigError: a value that cannot work, or that does not go with another.
    """

    name: OptimizerName = "adamw"
    """Optimizer: AdamW, or one of metronorm.optim. ticks_muon updates the inner matrices by Muon
    and everything else by AdamW."""
    learning_rate: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    matrix_learning_rate: float = 0.02
    """Highest learning rate of the matrices that ticks_muon updates by Muon."""
    schedule: Schedule = "cosine"
    """Shape of the learning rate after the warm-up. cosine: falls along half a cosine; wsd: stays,
    then falls linearly over the last part; constant: stays."""
    warmup: float = 0.05
    """Share of the ticks in which the learning rate rises from zero."""
    decay: float = 0.25
    """Share of the ticks, at the end, in which the learning rate of wsd falls."""
    final: float = 0.05
    """Learning rate at the last tick, as a share of the highest."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the first and second moment of adamw, ticks_adam and the AdamW in ticks_muon."""
    momentum: float = 0.95
    """Share of the accumulated gradient that ticks, ticks_sign and ticks_muon carry over."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; vectors have none."""
    clip: float = 1.0
    """Largest norm of the gradient of a tick; larger gradients are scaled down. 0 does not clip."""

    def __post_init__(self) -> None:
        check_choice("name", self.name, get_args(OptimizerName))
        check_choice("schedule", self.schedule, get_args(Schedule))
        for name in ("learning_rate", "matrix_learning_rate"):
            if not 0 < _number(name, getattr(self, name)) < math.inf:
                raise ConfigError(
                    f"{name} must be above 0 and finite", got=repr(getattr(self, name))
                )
        for name in ("warmup", "decay", "final"):
            _check_share(name, getattr(self, name))
        if self.warmup + self.decay > 1 and self.schedule == "wsd":
            raise ConfigError(
                "warmup and decay must leave room for each other (together at most 1)",
                got=f"{self.warmup} and {self.decay}",
            )
        if not all(0 <= _number("betas", beta) < 1 for beta in self.betas):
            raise ConfigError("betas must be at least 0 and below 1", got=repr(self.betas))
        if not 0 <= _number("momentum", self.momentum) < 1:
            raise ConfigError("momentum must be at least 0 and below 1", got=repr(self.momentum))
        for name in ("weight_decay", "clip"):
            if not 0 <= _number(name, getattr(self, name)) < math.inf:
                raise ConfigError(
                    f"{name} must be at least 0 and finite", got=repr(getattr(self, name))
                )
        if self.name == "ticks_adam" and self.clip:
            raise ConfigError(
                "ticks_adam cannot clip a window's gradient, which it never has by itself",
                got=f"clip={self.clip}",
                fix="--optimizer.clip 0",
            )


@dataclass(frozen=True)
class TrainConfig:
    """A training, whatever the task.

    Raises:
        ConfigError: a value that cannot work, or that does not go with another.
    """

    optimizer: OptimizerConfig = field(
        default_factory=OptimizerConfig,
        metadata={
            "on_resume": {
                each.name: "branch" for each in fields(OptimizerConfig) if each.name != "name"
            }
        },
    )
    ticks: int = on_resume("longer", 1000)
    """Updates of the parameters to make."""
    minutes: float = on_resume("longer", 0.0)
    """Train for so many minutes instead: the number of ticks is planned from the time that ticks
    take. 0: as many ticks as --ticks says."""
    batch_size: int = on_resume("window", 16)
    """Examples in a micro-batch."""
    micro_batches: int = on_resume("window", 1)
    """Micro-batches per tick; the loss is averaged over all that they count."""
    seed: int = 0
    """Seed of the weights, of the order of the examples and of dropout."""
    precision: Precision = "auto"
    """Precision of the matrix products. auto: the one that is faster on this machine, and right."""
    allocator: Allocator = field(default="auto", metadata={"on_resume": "free"})
    """What the C allocator does with large blocks. system: it gives them back; keep: it keeps
    them; auto: the faster of both (glibc only)."""
    device: str = on_resume("free", "auto")
    """Device to train on: cpu, cuda, cuda:1, ... auto: an accelerator if there is one."""
    compile: bool = on_resume("free", False)
    """Compile the model with torch.compile (minutes on a small machine, then faster)."""
    parallel: Parallel = field(default="ddp", metadata={"on_resume": "free"})
    """How several processes share the training. ddp: each has the whole model; fsdp: each has a
    part of all parameters (FSDP2)."""
    activation_checkpointing: bool = on_resume("free", False)
    """Keep no activations inside the model's layers, and compute them again in the backward pass:
    less memory, about a third more time."""
    rank_timeout: float = on_resume("free", 300.0)
    """Seconds to wait for another process before it counts as lost."""
    evaluate_every: int = on_resume("free", 250)
    """Ticks between two evaluations; also at the end."""
    best: str = "loss"
    """Name of the measure that decides which checkpoint is the best."""
    best_mode: BestMode = "min"
    """Whether the best is the lowest value of that measure or the highest."""
    checkpoint_every: int = on_resume("free", 250)
    """Ticks between two checkpoints; also at the end, on a signal and at a new best evaluation."""
    keep: int = on_resume("free", 2)
    """Newest checkpoints to keep; the best one is kept too."""
    ema: float = 0.0
    """Decay per tick of an exponential moving average of the weights, which is evaluated and saved
    beside them; 0 keeps none."""
    average_last: float = 0.0
    """Share of the ticks, at the end, over which the weights are averaged too; 0: none."""
    init_from: str = ""
    """Directory of a run; the new run begins with its best weights, and a text has its tokens."""
    recipe: str = on_resume("free", "")
    """Python file that defines `Config` and `task(config)`. Nothing: the task is text."""
    data_id: Annotated[str, tyro.conf.Suppress] = on_resume("free", "")
    """Hash of the data that the run was begun with; a new run fills it in."""

    def __post_init__(self) -> None:
        for name in ("ticks", "batch_size", "micro_batches", "evaluate_every", "checkpoint_every"):
            check_count(name, getattr(self, name), 1)
        check_count("keep", self.keep, 1)
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("allocator", self.allocator, get_args(Allocator))
        check_choice("parallel", self.parallel, get_args(Parallel))
        if not 0 < _number("rank_timeout", self.rank_timeout) < math.inf:
            raise ConfigError("rank_timeout must be above 0", got=repr(self.rank_timeout))
        if not 0 <= _number("minutes", self.minutes) < math.inf:
            raise ConfigError("minutes must be at least 0 and finite", got=repr(self.minutes))
        check_choice("best_mode", self.best_mode, get_args(BestMode))
        if not is_integer(self.seed) or not -(2**63) <= self.seed < 2**64:
            raise ConfigError("seed must be a whole number of 64 bits", got=repr(self.seed))
        if not 0 <= _number("ema", self.ema) < 1:
            raise ConfigError("ema must be at least 0 and below 1", got=repr(self.ema))
        _check_share("average_last", self.average_last)
        if self.init_from:  # it means the same run wherever the process goes
            object.__setattr__(self, "init_from", str(Path(self.init_from).absolute()))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ConfigError if the value of option `name` is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}", got=repr(value))


def check_count(name: str, value: object, least: int) -> None:
    """Raise ConfigError if the value of option `name` is no whole number from `least` on."""
    if not is_integer(value):
        raise ConfigError(f"{name} must be a whole number", got=repr(value))
    if value < least:
        raise ConfigError(f"{name} must be at least {least}", got=repr(value))
    if value >= 2**63:
        raise ConfigError(f"{name} must be below 2**63", got=repr(value))


def _check_share(name: str, value: object) -> None:
    if not 0 <= _number(name, value) <= 1:
        raise ConfigError(f"{name} must be between 0 and 1", got=repr(value))


def _number(name: str, value: object) -> float:
    if not is_number(value):
        raise ConfigError(f"{name} must be a number", got=repr(value))
    return value
