"""A classifier's last layer, solved: multinomial logistic regression on features computed once.

With a frozen body, to train the last layer is a convex problem. So it is solved to its optimum, the
point to which any training with the same penalty converges:

    J(W, b) = sum_i w_i * crossentropy(W f_i + b, label_i) / sum_i w_i  +  l2/2 * s² * |W|²

s² is the mean variance of the features, which makes `l2` independent of their scale. Newton's
method in float64; each step by conjugate gradients, so no matrix of (classes * width)² is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from metronorm.errors import ConfigError, DataError
from metronorm.finetune import architectures
from metronorm.optim.blocks import distribute_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

L2_TRIED = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
NEWTON_STEPS = 100


@dataclass(frozen=True)
class Solved:
    """The optimum.

    Attributes:
        weight: (classes, width), float64.
        bias: (classes,), float64; its sum is 0.
        l2: of the penalty.
        loss: mean cross entropy there, in nats, without the penalty.
        gradient_norm: of J there, with respect to weights of features of variance 1.
        steps: of Newton's method.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    loss: float
    gradient_norm: float
    steps: int


@torch.no_grad()
def compute_features(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    of: Callable[[Any, Any], Tensor] = architectures.features,
) -> Tensor:
    """What the last layer of a classifier gets, computed once for all batches, in order.

    The model is in evaluation mode meanwhile, so nothing is dropped.

    Args:
        model: a classifier.
        batches: as `architectures.features` takes them.
        of: what computes them, if the model is one around a classifier.

    Returns:
        (rows, width), float32, on the CPU.

    Raises:
        DataError: there is no batch.
    """
    was_training = model.training
    try:
        model.eval()
        found = [of(model, batch).float().cpu() for batch in batches]
    finally:
        model.train(was_training)
    if not found:
        raise DataError("a head needs rows to learn from", got="none")
    return torch.cat(found)


@torch.no_grad()
def put_into(model: nn.Module, solved: Solved) -> None:
    """Write the solution into the last layer of a classifier, also where it is sharded."""
    layer = architectures.head(model)
    for parameter, value in ((layer.weight, solved.weight), (layer.bias, solved.bias)):
        if parameter is not None:
            whole = value.to(parameter.device, parameter.dtype)
            is_sharded = hasattr(parameter, "placements")
            parameter.copy_(distribute_like(whole, parameter) if is_sharded else whole)


def solve(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    l2: float,
    weights: Tensor | None = None,
    tolerance: float = 1e-9,
) -> Solved:
    """The weight and bias for which J is smallest.

    Args:
        features: (rows, width).
        labels: (rows,), int64 in [0, classes).
        classes: at least 2.
        l2: above 0.
        weights: (rows,) of the rows, at least 0; None: all 1.
        tolerance: of the gradient's norm.

    Raises:
        ConfigError: `l2` is not above 0, or there are fewer than two classes.
        DataError: no rows, features that are not finite, labels out of range.
    """
    features, labels, weights = _checked(features, labels, classes, l2, weights)
    mean = (weights[:, None] * features).sum(0)
    centred = features - mean
    scale = math.sqrt(float((weights[:, None] * centred.square()).sum()) / features.shape[1]) or 1.0
    centred = torch.cat([centred / scale, torch.ones(len(features), 1).double()], 1)
    targets = functional.one_hot(labels, classes).double()
    penalty = torch.full((centred.shape[1],), l2, dtype=torch.float64)
    penalty[-1] = 0.0  # the bias

    def objective(point: Tensor) -> float:
        logs = (centred @ point.T).log_softmax(1)
        fit = -float((weights * (logs * targets).sum(1)).sum())
        return fit + 0.5 * float((penalty * point.square()).sum())

    point = torch.zeros(classes, centred.shape[1], dtype=torch.float64)
    value, norm, steps = objective(point), math.inf, 0
    for steps in range(NEWTON_STEPS + 1):
        chances = (centred @ point.T).softmax(1)
        slope = (weights[:, None] * (chances - targets)).T @ centred + penalty * point
        norm = float(slope.norm())
        if norm <= tolerance or steps == NEWTON_STEPS:
            break
        move = _newton_step(centred, chances, weights, penalty, slope)
        along, size = float((slope * move).sum()), 1.0
        # halved until it helps; near the optimum rounding hides what a step gains
        while size > 1e-6:
            tried = objective(point + size * move)
            if tried <= value + 1e-4 * size * along + 1e-15 * abs(value):
                break
            size /= 2
        else:
            break
        point, value = point + size * move, tried
    weight = point[:, :-1] / scale
    bias = point[:, -1] - weight @ mean
    loss = value - 0.5 * float((penalty * point.square()).sum())
    return Solved(weight, bias - bias.mean(), l2, loss, norm, steps)


def _newton_step(
    rows: Tensor, chances: Tensor, weights: Tensor, penalty: Tensor, slope: Tensor
) -> Tensor:
    """-H⁻¹ slope by conjugate gradients, as exactly as the slope is small."""

    def curve(move: Tensor) -> Tensor:  # H times a move
        change = rows @ move.T
        change = chances * (change - (chances * change).sum(1, keepdim=True))
        return (weights[:, None] * change).T @ rows + penalty * move

    found = torch.zeros_like(slope)
    rest = -slope
    direction, square = rest, float(rest.square().sum())
    goal = square * min(0.01, math.sqrt(square)) ** 2
    for _ in range(slope.numel()):
        bent = curve(direction)
        size = square / float((direction * bent).sum())
        found, rest = found + size * direction, rest - size * bent
        square, before = float(rest.square().sum()), square
        if square <= goal:
            break
        direction = rest + square / before * direction
    return found


def choose_l2(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    weights: Tensor | None = None,
    folds: int = 5,
    tried: Sequence[float] = L2_TRIED,
    seed: int = 0,
) -> float:
    """The penalty with the smallest loss on rows that were left out (cross-validation).

    Args:
        features: as in `solve`.
        labels: as in `solve`.
        classes: as in `solve`.
        weights: as in `solve`.
        folds: into how many parts the rows are divided; each is left out once.
        tried: penalties.
        seed: of the division.
    """
    chance = torch.Generator().manual_seed(seed)
    fold_of = torch.randperm(len(features), generator=chance) % folds
    share = torch.ones(len(features)) if weights is None else weights
    losses = dict.fromkeys(tried, 0.0)
    for fold in range(min(folds, len(features))):
        out = fold_of == fold
        if out.all():
            continue
        for l2 in tried:
            fit = solve(
                features[~out], labels[~out], classes, l2=l2, weights=share[~out], tolerance=1e-5
            )
            logits = features[out].double() @ fit.weight.T + fit.bias
            each = functional.cross_entropy(logits, labels[out], reduction="none")
            losses[l2] += float((share[out] * each).sum())
    return min(losses, key=lambda l2: losses[l2])


def _checked(
    features: Tensor, labels: Tensor, classes: int, l2: float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Features in float64, labels, and weights whose sum is 1."""
    if classes < 2:
        raise ConfigError("a classifier needs at least two classes", got=str(classes))
    if not 0 < l2 < math.inf:
        raise ConfigError("l2 must be above 0 and finite", got=repr(l2))
    if not len(features):
        raise DataError("a head needs rows to learn from", got="none")
    if not features.isfinite().all():
        rows = (~features.isfinite().all(1)).nonzero().flatten().tolist()
        raise DataError("features must be finite", got=f"others in rows {rows[:5]}")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels must be from 0 to {classes - 1}",
            got=f"{int(labels.min())} to {int(labels.max())}",
        )
    share = torch.ones(len(features)) if weights is None else weights
    share = share.double()
    if (share < 0).any() or not share.sum() > 0:
        raise DataError("weights of rows must be at least 0, and some above", got="others")
    return features.double(), labels.long(), share / share.sum()
