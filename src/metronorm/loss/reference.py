"""The equations in float64, written for readers; tests compare the fast form with them.

x is (rows, width), W is (vocabulary, width), b is (vocabulary,). For one row with the target t, the
weight w, and V entries in the vocabulary:

    u = scale * (W x + b)
    z = cap * tanh(u / cap)                             or u, without a cap
    s = log(sum of exp(z))
    loss = w * (s - (1 - e) * z[t] - (e / V) * sum(z) + z_loss * s²)

    dloss/dz = w * ((1 + 2 * z_loss * s) * softmax(z) - (1 - e) * onehot(t) - e / V)
    dloss/du = dloss/dz * (1 - (z / cap)²)

e is the label smoothing. Rows of weight 0 and rows whose target is ignored are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.loss.checks import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


class Result(NamedTuple):
    """The summed loss and its gradients, in float64."""

    loss: Tensor  # ()
    features: Tensor  # (rows, width)
    weight: Tensor  # (vocabulary, width)
    bias: Tensor  # (vocabulary,)


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
    soft_cap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    scale: float = 1.0,
) -> Result:
    """The loss and its gradients, row by row. Arguments are those of the fast form; 2-D features.

    Args:
        features: x, (rows, width).
        weight: W, (vocabulary, width).
        targets: t, int64, (rows,).
        bias: b, (vocabulary,).
        weights: w, (rows,).
        soft_cap: the cap.
        label_smoothing: e.
        z_loss: factor of s².
        scale: of the logits.
    """
    x, matrix = features.detach().double(), weight.detach().double()
    vocabulary = len(matrix)
    b = torch.zeros(vocabulary).double() if bias is None else bias.detach().double()
    loss = torch.zeros(()).double()
    dx, dw, db = torch.zeros_like(x), torch.zeros_like(matrix), torch.zeros_like(b)
    for row, target in enumerate(targets.tolist()):
        w = 1.0 if weights is None else weights[row].item()
        if target == IGNORED or w == 0:
            continue
        u = scale * (matrix @ x[row] + b)
        z = u if soft_cap is None else soft_cap * torch.tanh(u / soft_cap)
        s = torch.logsumexp(z, 0)
        onehot = torch.nn.functional.one_hot(torch.tensor(target), vocabulary).double()
        wanted = (1 - label_smoothing) * onehot + label_smoothing / vocabulary
        loss += w * (s - (wanted * z).sum() + z_loss * s**2)
        du = w * ((1 + 2 * z_loss * s) * torch.softmax(z, 0) - wanted)
        if soft_cap is not None:
            du = du * (1 - (z / soft_cap) ** 2)
        dx[row] = scale * (matrix.T @ du)
        dw += scale * torch.outer(du, x[row])
        db += scale * du
    return Result(loss, dx, dw, db)
