"""The loss by torch's own operators: for transforms, tracing and DTensors. The logits exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812

from metronorm.loss.checks import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

    from metronorm.loss.checks import Options


def composed(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    options: Options,
) -> Tensor:
    """The summed loss; arguments as in `linear_cross_entropy`."""
    counts = targets != IGNORED
    if weights is not None:
        counts = counts & (weights != 0)
    # what does not count may be NaN, which not even a factor of 0 removes
    features = torch.where(counts.unsqueeze(-1), features, 0)
    if not options.bfloat16:
        features, weight = features.to(options.dtype), weight.to(options.dtype)
    logits = F.linear(features, weight).to(options.dtype)  # (..., vocabulary)
    if bias is not None:
        logits = logits + bias
    logits = logits * options.scale
    if options.soft_cap is not None:
        logits = options.soft_cap * torch.tanh(logits / options.soft_cap)
    losses = F.cross_entropy(
        logits.view(-1, logits.shape[-1]),
        torch.where(counts, targets, IGNORED).flatten().long(),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=options.label_smoothing,
    ).view(targets.shape)
    if options.z_loss:
        losses = losses + options.z_loss * torch.logsumexp(logits, -1).square()
    if weights is not None:
        losses = losses * weights
    return torch.where(counts, losses, 0).sum()
