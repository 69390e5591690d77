"""An actor and a critic for reinforcement learning on vectors: two small networks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from metronorm.norm import LayerNorm

CLAMP = 10.0  # deviations; what is seen is clamped to as many


class ActorCritic(nn.Module):
    """A distribution over actions, and a value, of what is seen; the two share no weights.

    Each network has two hidden layers with tanh. Weights are orthogonal at first, those of the
    actions small (Andrychowicz et al., 2020, arXiv:2006.05990: that matters most).

    Args:
        inputs: numbers that are seen.
        actions: of which one is taken.
        width: of the hidden layers.
        norm: "layer": LayerNorm before each tanh; "none".

    Attributes:
        mean: subtracted from what is seen, (inputs,).
        scale: what is seen is divided by it, (inputs,).
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        inputs: int,
        actions: int,
        *,
        width: int = 64,
        norm: Literal["layer", "none"] = "layer",
    ) -> None:
        super().__init__()
        self.actor = _network(inputs, width, actions, norm, gain=0.01)
        self.critic = _network(inputs, width, 1, norm, gain=1.0)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))

    def forward(self, seen: Tensor) -> tuple[Categorical, Tensor]:
        """The distribution of the action, and the value, (batch,); `seen` is (batch, inputs)."""
        scaled = ((seen - self.mean) / self.scale).clamp(-CLAMP, CLAMP)
        return Categorical(logits=self.actor(scaled), validate_args=False), self.critic(scaled)[
            :, 0
        ]


def _network(inputs: int, width: int, outputs: int, norm: str, *, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (inputs, width):
        layers.append(_linear(before, width, math.sqrt(2)))
        if norm == "layer":
            layers.append(LayerNorm(width))
        layers.append(nn.Tanh())
    return nn.Sequential(*layers, _linear(width, outputs, gain))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
