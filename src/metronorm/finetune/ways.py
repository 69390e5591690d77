"""The ways to adapt a pretrained model, as a config. Imports no framework.

| way | what trains | for |
| --- | --- | --- |
| `full` | everything | both tasks |
| `lora` | a low-rank term beside every linear layer; of a classifier its head too | both |
| `norm` | weights and biases of the norms | both |
| `head` | the last linear layer, solved from features that are computed once | classifiers |
| `norm+head` | the same, then norms and what is above the encoder | classifiers |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from metronorm.errors import ConfigError
from metronorm.scalars import is_integer, is_number

Way = Literal["full", "lora", "norm", "head", "norm+head"]
Body = Literal["fp32", "bf16"]
ADAPTER_WAYS: tuple[Way, ...] = ("lora", "norm", "norm+head")
"""Ways of which `peft` knows the adapter."""


@dataclass(frozen=True)
class AdaptConfig:
    """How to adapt.

    Raises:
        ConfigError: a value that cannot work.
    """

    way: Way = "full"
    """What trains: full: all weights; lora: a low-rank term beside every linear layer; norm: the
    norms; head: a classifier's last layer, solved to its optimum; norm+head: both of these."""
    body: Body = "fp32"
    """Type of the weights that do not train. With full and bf16, matrices are bfloat16 too and are
    rounded at random, so that no update is lost; norms are always float32."""
    rank: int = 16
    """Rank of the terms of lora."""
    alpha: float = 16.0
    """Scale of the terms of lora, which is alpha / sqrt(rank)."""
    dropout: float = 0.0
    """Share of the inputs of lora's terms that is dropped."""
    l2: float | None = None
    """Penalty of the head's weights where it is solved; None: chosen by cross-validation."""

    def __post_init__(self) -> None:
        for name, choices in (("way", get_args(Way)), ("body", get_args(Body))):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} must be one of {', '.join(choices)}", got=repr(getattr(self, name))
                )
        if not is_integer(self.rank) or self.rank < 1:
            raise ConfigError("rank must be at least 1", got=repr(self.rank))
        if not is_number(self.alpha) or not 0 < self.alpha < math.inf:
            raise ConfigError("alpha must be above 0 and finite", got=repr(self.alpha))
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError("dropout must be at least 0 and below 1", got=repr(self.dropout))
        if self.l2 is not None and not (is_number(self.l2) and 0 < self.l2 < math.inf):
            raise ConfigError(
                "l2 must be above 0 and finite: without it separable data has no optimum",
                got=repr(self.l2),
            )
