"""The equation of every optimizer, over plain Python numbers. Tests compare the optimizers with it.

Parameters are a list of numbers, a window is a list of beats, a beat the list of its gradients.
Each function returns the parameters after the last window.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Numbers = Sequence[float]
    Windows = Sequence[Sequence[Numbers]]


def accumulate(sums: Numbers, beats: Sequence[Numbers]) -> list[float]:
    """`c + (sum of the window's gradients)`, for sums that were multiplied by the momentum."""
    return [c + sum(beat[i] for beat in beats) for i, c in enumerate(sums)]


def ticks(
    parameters: Numbers,
    windows: Windows,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    scaling: str = "sum",
    decoupled: bool = False,
    maximize: bool = False,
) -> list[float]:
    """Momentum: c = momentum * c + sum of gradients; p = p - lr * scale * c."""
    p, c = list(parameters), [0.0] * len(parameters)
    scale = {"sum": 1.0, "mean": 1 - momentum, "amplified": 1 / (1 - momentum)}[scaling]
    sign = -1.0 if maximize else 1.0
    for beats in windows:
        c = accumulate([momentum * each for each in c], beats)
        for i in range(len(p)):
            if decoupled:
                p[i] -= lr * weight_decay * p[i]
            else:
                c[i] += sign * weight_decay * p[i]
            p[i] -= sign * lr * scale * c[i]
    return p


def ticks_sign(
    parameters: Numbers,
    windows: Windows,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> list[float]:
    """Signum: p = (1 - lr * decay) * p - lr * sign(c)."""
    p, c = list(parameters), [0.0] * len(parameters)
    for beats in windows:
        c = accumulate([momentum * each for each in c], beats)
        for i in range(len(p)):
            sign = 0.0 if c[i] == 0 else math.copysign(1.0, c[i])
            p[i] = (1 - lr * weight_decay) * p[i] - lr * sign
    return p


def ticks_adam(
    parameters: Numbers,
    windows: Windows,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> list[float]:
    """AdamW with m = (1 - beta1) * c, and v fed the square of every beat."""
    beta1, beta2 = betas
    p, c, v = list(parameters), [0.0] * len(parameters), [0.0] * len(parameters)
    for t, beats in enumerate(windows, start=1):
        c = accumulate([beta1 * each for each in c], beats)
        for i in range(len(p)):
            v[i] = beta2 * v[i] + (1 - beta2) * sum(beat[i] ** 2 for beat in beats)
            m = (1 - beta1) * c[i] / (1 - beta1**t)
            root = math.sqrt(v[i] / (1 - beta2**t)) + eps
            p[i] = (1 - lr * weight_decay) * p[i] - lr * m / root
    return p


Matrix = list[list[float]]


def ticks_muon(
    parameters: Matrix,
    windows: Sequence[Sequence[Matrix]],
    *,
    lr: float,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    steps: int = 5,
) -> Matrix:
    """Muon: p = (1 - lr * decay) * p - lr * sqrt(max(1, rows / columns)) * orthogonalized(c)."""
    rows, columns = len(parameters), len(parameters[0])
    p = [list(row) for row in parameters]
    c = [[0.0] * columns for _ in range(rows)]
    rate = lr * math.sqrt(max(1.0, rows / columns))
    for beats in windows:
        for i in range(rows):
            c[i] = accumulate([momentum * each for each in c[i]], [beat[i] for beat in beats])
        update = orthogonalized(c, steps)
        for i in range(rows):
            for j in range(columns):
                p[i][j] = (1 - lr * weight_decay) * p[i][j] - rate * update[i][j]
    return p


def orthogonalized(matrix: Matrix, steps: int = 5) -> Matrix:
    """Newton-Schulz: x = a * x + (b * g + c * g²) x with g = x x', from x = matrix / its norm."""
    a, b, c = 3.4445, -4.7750, 2.0315
    if len(matrix) > len(matrix[0]):
        return _transposed(orthogonalized(_transposed(matrix), steps))
    norm = math.sqrt(sum(each * each for row in matrix for each in row)) or 1.0
    x = [[each / norm for each in row] for row in matrix]
    for _ in range(steps):
        gram = _product(x, _transposed(x))
        square = _product(gram, gram)
        n = range(len(gram))
        polynomial = [[b * gram[i][j] + c * square[i][j] for j in n] for i in n]
        more = _product(polynomial, x)
        x = [[a * x[i][j] + more[i][j] for j in range(len(x[0]))] for i in n]
    return x


def _transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def _product(left: Matrix, right: Matrix) -> Matrix:
    columns = _transposed(right)
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in left
    ]
