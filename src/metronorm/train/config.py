"""Everything about a training that can be chosen. Imports no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from metronorm.data.config import TextConfig
from metronorm.errors import ConfigError
from metronorm.models.config import GPTConfig, preset
from metronorm.scalars import is_integer, is_number

OptimizerName = Literal["adamw", "ticks", "ticks_sign", "ticks_muon", "ticks_adam"]
Schedule = Literal["cosine", "wsd", "constant"]
Precision = Literal["auto", "fp32", "bf16"]
Allocator = Literal["auto", "system", "keep"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule.

    Raises:
        ConfigError: a value that cannot work, or that does not go with another.
    """

    name: OptimizerName = "adamw"
    """Of metronorm.optim, or AdamW. ticks_muon: matrices by Muon, all else by AdamW."""
    learning_rate: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    matrix_learning_rate: float = 0.02
    """The same, of the matrices of ticks_muon."""
    schedule: Schedule = "cosine"
    """After the warm-up: down a cosine; wsd: flat, then linearly down over the last stretch."""
    warmup: float = 0.05
    """Share of the ticks in which the learning rate rises from zero."""
    decay: float = 0.25
    """Share of the ticks in which wsd comes down."""
    final: float = 0.05
    """Where the schedule ends, as a share of learning_rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the first and second moment of adamw, ticks_adam and the AdamW in ticks_muon."""
    momentum: float = 0.95
    """Share of the accumulated gradient that ticks, ticks_sign and ticks_muon carry over."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; vectors have none."""
    clip: float = 1.0
    """Largest norm of the gradient of a tick; 0 does not clip."""

    def __post_init__(self) -> None:
        _check_choice("name", self.name, get_args(OptimizerName))
        _check_choice("schedule", self.schedule, get_args(Schedule))
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
    """A training of a GPT on text.

    Raises:
        ConfigError: a value that cannot work, or that does not go with another.
    """

    text: Annotated[TextConfig, tyro.conf.arg(name="")] = field(default_factory=TextConfig)
    model: GPTConfig = field(default_factory=lambda: preset("quick"))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ticks: int = 1000
    """Updates of the parameters to make."""
    batch_size: int = 16
    """Sequences in a micro-batch."""
    micro_batches: int = 1
    """Micro-batches per tick; the loss is averaged over all their tokens."""
    seed: int = 0
    """Seed of the weights, of the order of the text and of dropout."""
    precision: Precision = "auto"
    """Of the matrix products. auto: whichever this machine computes the model faster in."""
    allocator: Allocator = "auto"
    """keep: the C allocator holds on to large blocks. auto: whichever is faster (glibc only)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: an accelerator where there is one."""
    compile: bool = False
    """Compile the model with torch.compile (minutes on a small machine, then faster)."""
    evaluate_every: int = 250
    """Ticks between two evaluations; also at the end."""
    evaluate_tokens: int = 65_536
    """Tokens of the validation text an evaluation reads at most, evenly spread; 0 reads all."""
    sample_every: int = 500
    """Ticks between two samples printed while it trains; 0 prints none then."""
    sample_tokens: int = 200
    """Length of a printed sample."""
    checkpoint_every: int = 250
    """Ticks between two checkpoints; also at the end and on a signal."""
    keep: int = 2
    """Newest checkpoints to keep; the one with the lowest validation loss is kept too."""

    def __post_init__(self) -> None:
        for name in ("ticks", "batch_size", "micro_batches", "evaluate_every", "checkpoint_every"):
            _check_count(name, getattr(self, name), 1)
        for name in ("evaluate_tokens", "sample_every", "sample_tokens"):
            _check_count(name, getattr(self, name), 0)
        _check_count("keep", self.keep, 1)
        _check_choice("precision", self.precision, get_args(Precision))
        _check_choice("allocator", self.allocator, get_args(Allocator))
        if not is_integer(self.seed) or not -(2**63) <= self.seed < 2**64:
            raise ConfigError("seed must be a whole number of 64 bits", got=repr(self.seed))
        if 0 < self.evaluate_tokens < self.model.context:
            raise ConfigError(
                "evaluate_tokens must be 0 (all) or at least one context",
                got=f"evaluate_tokens={self.evaluate_tokens}, context={self.model.context}",
            )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}", got=repr(value))


def _check_count(name: str, value: object, least: int) -> None:
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
