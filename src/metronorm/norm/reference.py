"""The equations in float64, written for readers; tests compare every kernel with them.

x is (rows, n): every row is normalized over its n elements. With
m = mean(x), v = mean((x - m)^2) (the *biased* variance) and r = 1 / sqrt(v + eps):

    h = (x - m) * r                     y = h * weight + bias

RMS normalization is the same with m = 0. Ba, Kiros and Hinton (2016),
arXiv:1607.06450; Zhang and Sennrich (2019), arXiv:1910.07467.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gradients(NamedTuple):
    """Gradients of a loss with respect to x, weight and bias."""

    x: Tensor  # (rows, n)
    weight: Tensor  # (n,)
    bias: Tensor  # (n,)


class DoubleGradients(NamedTuple):
    """Gradients of a function of `Gradients` with respect to dy, x and weight."""

    dy: Tensor  # (rows, n)
    x: Tensor  # (rows, n)
    weight: Tensor  # (n,)


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, centred: bool = True) -> Tensor:
    """The output y, (rows, n), float64; weight and bias are (n,)."""
    h, _ = _hat(x, eps, centred)
    return h * weight.double() + bias.double()


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, *, centred: bool = True
) -> Gradients:
    """The gradients, in float64, of a loss that has the gradient dy with respect to y.

    For one row, dh/dx is the symmetric matrix r * (I - 1 1^T / n - h h^T / n); without centring the
    middle term is missing.
    """
    h, r = _hat(x, eps, centred)
    dy = dy.double()
    dx = r * _project(dy * weight.double(), h, centred)
    return Gradients(dx, (dy * h).sum(0), dy.sum(0))


def double_backward(
    slopes: Gradients, dy: Tensor, x: Tensor, weight: Tensor, eps: float, *, centred: bool = True
) -> DoubleGradients:
    """The gradients of L = <slopes.x, dx> + <slopes.weight, dweight> + <slopes.bias, dbias>.

    dL/dh is taken with r constant, and dL/dr with h constant; x changes both.
    """
    h, r = _hat(x, eps, centred)
    dy, weight, n = dy.double(), weight.double(), x.shape[1]
    u, p, q = (slope.double() for slope in slopes)
    a = dy * weight
    moved = r * _project(u, h, centred)
    to_h = p * dy - r * (u * _mean(a * h) + a * _mean(u * h))
    to_r = (u * _project(a, h, centred)).sum(1, keepdim=True)
    to_x = r * _project(to_h, h, centred) - to_r * r * r * h / n
    return DoubleGradients(weight * moved + p * h + q, to_x, (dy * moved).sum(0))


def _hat(x: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    d = x.double()
    if centred:
        d = d - _mean(d)
    r = 1 / torch.sqrt(_mean(d * d) + eps)
    return d * r, r


def _project(v: Tensor, h: Tensor, centred: bool) -> Tensor:
    return v - h * _mean(v * h) - (_mean(v) if centred else 0)


def _mean(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)
