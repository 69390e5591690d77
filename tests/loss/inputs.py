"""Inputs of the loss, and its equations in float64 for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from metronorm.loss import linear_cross_entropy, reference

VOCABULARY, WIDTH = 29, 8


@dataclass
class Case:
    """Tensors and options of one call."""

    features: Tensor  # (2, rows / 2, width)
    weight: nn.Parameter
    targets: Tensor
    bias: nn.Parameter | None = None
    weights: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def loss(self, **changed: Any) -> Tensor:
        """The loss by the fast form."""
        given = {"bias": self.bias, "weights": self.weights, **self.options, **changed}
        return linear_cross_entropy(self.features, self.weight, self.targets, **given)

    def want(self) -> reference.Result:
        """The loss and its gradients by the equations; of features (2, rows / 2, width)."""
        found = reference.linear_cross_entropy(
            self.features.flatten(0, -2),
            self.weight,
            self.targets.flatten(),
            bias=self.bias,
            weights=None if self.weights is None else self.weights.flatten(),
            **{name: value for name, value in self.options.items() if name != "chunk"},
        )
        return found._replace(features=found.features.view(self.features.shape))


def case(
    rows: int = 14,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    bias: bool = False,
    weights: bool = False,
    vocabulary: int = VOCABULARY,
    width: int = WIDTH,
    **options: Any,
) -> Case:
    """Random inputs. Two rows do not count: one has the target -100, the other the weight 0."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    shape = (2, rows // 2)
    targets = torch.randint(vocabulary, shape, generator=draw)
    targets[0, rows // 4 :: 5] = -100
    factors = torch.rand(shape, generator=draw) + 0.5
    factors[1, 1:2] = 0
    return Case(
        normal(*shape, width).requires_grad_(),
        nn.Parameter(normal(vocabulary, width)),
        targets,
        nn.Parameter(normal(vocabulary)) if bias else None,
        factors if weights else None,
        options,
    )


def far(found: Tensor | None, want: Tensor) -> float:
    """The norm of the difference over the norm of what is wanted."""
    assert found is not None
    return float((found.detach().double() - want).norm() / want.norm())
