"""The parts of torch without a public name still behave as in torch 2.13, where they were read."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from metronorm.finetune._torch_private import has_hooks_of_saved, softmax_slope


def test_the_slope_of_a_softmax() -> None:
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weights = scores.softmax(dim=-1)
    slope = torch.randn(3, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(weights, scores, slope)
    torch.testing.assert_close(softmax_slope(slope, weights.detach()), expected)


def test_hooks_of_saved_tensors_are_seen() -> None:
    seen = []

    def layer(x: torch.Tensor) -> torch.Tensor:
        seen.append(has_hooks_of_saved())
        return x.sin()

    x = torch.ones(2, requires_grad=True)
    layer(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: one, lambda one: one):
        layer(x)
    layer(x)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert seen == [False, True, False, True, True]
