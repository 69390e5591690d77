"""TicksMuon against torch.optim.Muon, AdamW and its equations.

Newton-Schulz runs in bfloat16, with steps of 2⁻⁸: two orders of addition give results that differ
by one or two percent. In the direction of a singular value near zero, which the iteration enlarges,
they can differ altogether: that is one of at least four directions, so half of the update's norm.
"""

import statistics
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.optim import Ticks, TicksMuon, reference, ticks_muon
from metronorm.optim.ticks_muon import orthogonalized
from tests.optim import replay
from tests.optim.replay import FP32, FP64, ROUNDING, TICKS, far, history, same, tensors_of

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4)]


def draw(shapes: list[tuple[int, int]], dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=FP64, generator=generator).to(dtype) for shape in shapes]


def leaves(tensors: list[Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(tensor.clone()) for tensor in tensors]


def differences(
    momentum: float, dtype: torch.dtype, *, nesterov: bool = False, **options: Any
) -> list[float]:
    """Of single steps from the same state, from those of torch.optim.Muon, by norms."""
    given, other = leaves(draw(SHAPES, dtype, 0)), leaves(draw(SHAPES, dtype, 0))
    ours = TicksMuon(given, 0.02, momentum, 0.1, **options)
    muon = torch.optim.Muon(other, 0.02, 0.1, momentum, nesterov=nesterov, **options)
    found = []
    for tick in range(100):
        before = [p.detach().clone() for p in given]
        for p, q in zip(given, other, strict=True):
            q.data.copy_(p)
        gradients = draw(SHAPES, dtype, 1 + tick)
        torch.autograd.backward(given, gradients)
        torch.autograd.backward(other, gradients)
        ours.step()
        muon.step()
        muon.zero_grad()
        for p, q, start in zip(given, other, before, strict=True):
            found.append(float((p - q).detach().norm() / (q - start).detach().norm()))
    return found


@pytest.mark.parametrize("dtype", [FP32, FP64])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_steps_are_those_of_muon(adjust: Any, momentum: float, dtype: torch.dtype) -> None:
    """What Muon orthogonalizes is (1 - momentum) times our sum: at 0 and 0.5 the same digits."""
    found = differences(momentum, dtype, adjust_lr_fn=adjust)
    assert max(found) < 0.5
    assert statistics.median(found) < (0.005 if momentum in (0.0, 0.5) else 0.04)


def test_another_step_is_told_apart() -> None:
    assert statistics.median(differences(0.5, FP32, nesterov=True)) > 0.1


@pytest.mark.parametrize("shape", [(4, 4), (3, 8), (8, 3), (16, 16), (1, 5), (5, 1)])
def test_orthogonalized_is_that_of_the_equations(shape: tuple[int, int]) -> None:
    found = []
    for seed in range(30):
        (matrix,) = draw([shape], FP64, seed)
        want = torch.tensor(reference.orthogonalized(matrix.tolist()), dtype=FP64)
        (got,) = orthogonalized([matrix], 5, 1e-7)
        found.append(float((got - want).norm() / want.norm()))
    assert max(found) < 0.25
    assert statistics.median(found) < 0.03


def test_products_are_the_same_digits_with_and_without_instructions_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    found = []
    for has in (True, False):
        monkeypatch.setattr(ticks_muon, "multiplies_bfloat16", lambda has=has: has)
        found.append(orthogonalized([matrix, matrix.mT.contiguous().mT], 5, 1e-7))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-8)
    exact = torch.tensor(reference.orthogonalized(matrix.tolist()), dtype=FP64)
    assert float((found[1][0] - exact).norm() / exact.norm()) < 0.05


def test_windows_are_those_of_the_equations() -> None:
    """Of several beats, over 200 ticks; the errors of the steps are independent, and average out"""
    given = leaves(draw([(6, 4), (3, 5)], FP32, 0))
    optimizer = TicksMuon(given, 0.02, 0.9, 0.1)
    windows: list[list[list[Tensor]]] = [
        [draw([(6, 4), (3, 5)], FP32, 10 * tick + beat) for beat in range(1 + tick % 3)]
        for tick in range(200)
    ]
    wants = [
        reference.ticks_muon(
            parameter.tolist(),
            [[beat[index].tolist() for beat in beats] for beats in windows],
            lr=0.02,
            momentum=0.9,
            weight_decay=0.1,
        )
        for index, parameter in enumerate(given)
    ]
    for beats in windows:
        for gradients in beats:
            torch.autograd.backward(given, gradients)
        optimizer.step()
    for parameter, want in zip(given, wants, strict=True):
        exact = torch.tensor(want)
        assert float((parameter.detach() - exact).norm() / exact.norm()) < 0.03


def test_matrices_that_are_zero_stay() -> None:
    parameter = nn.Parameter(torch.ones(3, 2))
    optimizer = TicksMuon([parameter])
    (0 * parameter).sum().backward()
    optimizer.step()
    assert torch.equal(parameter, torch.ones(3, 2))


# The other methods -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [FP64, FP32])
@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.0}, {"betas": (0.8, 0.95), "weight_decay": 0.1}], ids=str
)
def test_the_adamw_method_is_adamw(options: dict[str, Any], dtype: torch.dtype) -> None:
    """For windows of any number of beats."""
    given, other = replay.parameters(dtype), replay.parameters(dtype)
    options = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999), **options}
    windows = history(100, dtype)
    replay.replay(TicksMuon(given.values(), method="adamw", **options), given, windows)
    replay.replay_torch(torch.optim.AdamW(other.values(), **options), other, windows)
    assert far(given, other) < 20 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [FP64, FP32])
def test_a_thousand_ticks_of_the_others_are_those_of_the_equations(dtype: torch.dtype) -> None:
    given, windows = replay.parameters(dtype), history(TICKS, dtype)
    vectors = {name: p for name, p in given.items() if p.ndim < 2}
    matrices = {name: p for name, p in given.items() if p.ndim == 2}
    options = {"lr": 1e-3, "weight_decay": 0.1}
    want = replay.reference(reference.ticks, vectors, windows, decoupled=True, **options)
    summed = [
        [{name: sum(b[name] for b in beats if name in b) for beat in beats for name in beat}]
        for beats in windows
    ]
    betas = (0.9, 0.95)
    want |= replay.reference(reference.ticks_adam, matrices, summed, betas=betas, **options)
    groups = [
        {"params": vectors.values(), "method": "ticks", "momentum": 0.9},
        {"params": matrices.values(), "method": "adamw"},
    ]
    replay.replay(TicksMuon(groups, **options), given, windows)
    assert far(given, want) < TICKS * ROUNDING[dtype]


def test_three_methods_in_one_optimizer_are_three_optimizers() -> None:
    given, other = replay.parameters(FP32), replay.parameters(FP32)
    names = {
        "muon": ["dense.weight", "sometimes.weight", "frozen.weight"],
        "ticks": ["dense.bias", "sometimes.bias"],
        "adamw": ["embedding.weight", "shared.weight"],
    }
    groups = [
        {"params": [given[name] for name in each], "method": method}
        for method, each in names.items()
    ]
    replay.replay(TicksMuon(groups, 0.01, 0.9), given, history(50, FP32))
    taken: list[torch.optim.Optimizer] = [
        TicksMuon([other[name] for name in names["muon"]], 0.01, 0.9),
        Ticks([other[name] for name in names["ticks"]], 0.01, 0.9, foreach=False),
        TicksMuon([other[name] for name in names["adamw"]], 0.01, method="adamw"),
    ]
    for beats in history(50, FP32):
        for beat in beats:
            replay.backward(other, beat)
        for optimizer in taken:
            optimizer.step()
    assert same(given, other)


def test_memory_of_the_methods() -> None:
    """A matrix holds its gradient and nothing else; AdamW's two moments are beside the gradient."""
    matrix, vector = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))
    optimizer = TicksMuon([{"params": [matrix]}, {"params": [vector], "method": "adamw"}])
    for _ in range(2):
        (matrix.sum() + vector.sum()).backward()
        optimizer.step()
    assert optimizer.state[matrix]["accumulated"] is matrix.grad
    assert tensors_of(optimizer, matrix) == {"accumulated"}
    assert vector.grad is None
    assert tensors_of(optimizer, vector) == {"exp_avg", "exp_avg_sq", "step"}
