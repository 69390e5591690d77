"""The equations themselves, against torch's optimizers and singular value decomposition."""

from typing import Any

import pytest
import torch
from torch import nn

from metronorm.optim import reference
from tests.optim.replay import FP64

TICKS, ELEMENTS = 50, 6


def draw() -> tuple[list[float], list[list[list[float]]]]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(ELEMENTS, dtype=FP64, generator=generator).tolist()
    gradients = torch.randn(TICKS, 1, ELEMENTS, dtype=FP64, generator=generator).tolist()
    return start, gradients


def torchs(kind: Any, **options: Any) -> list[float]:
    start, gradients = draw()
    parameter = nn.Parameter(torch.tensor(start, dtype=FP64))
    optimizer = kind([parameter], **options)
    for (gradient,) in gradients:
        parameter.grad = torch.tensor(gradient, dtype=FP64)
        optimizer.step()
    return parameter.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "maximize": True},
    ],
)
def test_ticks_is_sgd(options: dict[str, Any]) -> None:
    want = torchs(torch.optim.SGD, **{"momentum": 0.9, **options})
    assert reference.ticks(*draw(), **options) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    "options", [{"lr": 0.1}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 0.01, "weight_decay": 0.1}]
)
def test_ticks_adam_is_adamw(options: dict[str, Any]) -> None:
    options = {"weight_decay": 0.0, **options}
    want = torchs(torch.optim.AdamW, **options)
    assert reference.ticks_adam(*draw(), **options) == pytest.approx(want, rel=1e-12)


def test_ticks_sign_by_hand() -> None:
    windows = [[[1.0, -2.0]], [[-0.25, 0.5], [-0.25, 0.5]], [[0.0, 0.0]]]
    got = reference.ticks_sign([0.0, 10.0], windows, lr=1.0, momentum=0.5, weight_decay=0.5)
    # sums: 1, -2; then 0, 0; then 0, 0
    assert got == [((0 - 1) / 2) / 2, ((10 / 2 + 1) / 2) / 2]


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2)])
def test_orthogonalized_is_a_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=FP64, generator=torch.Generator().manual_seed(0))
    u, values, v = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    want = u @ values.diag() @ v
    got = torch.tensor(reference.orthogonalized(matrix.tolist()), dtype=FP64)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert bool(((values > 0.6) & (values < 1.3)).all())


def test_a_matrix_of_zeros_has_no_direction() -> None:
    assert reference.orthogonalized([[0.0, 0.0]]) == [[0.0, 0.0]]
