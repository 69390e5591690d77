"""Half-precision parameters: sums in float32, and updates that are not lost."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from tests.optim import replay
from tests.optim.replay import BF16, FP16, FP32, FP64, Net, far, same

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (Ticks, {"lr": 0.02}),
    (Ticks, {"lr": 0.02, "foreach": True, "weight_decay": 0.01}),
    (Ticks, {"lr": 0.02, "decoupled": True, "max_grad_norm": 1.0, "weight_decay": 0.01}),
    (TicksSign, {"lr": 0.002}),
    (TicksAdam, {"lr": 0.002}),
    (TicksMuon, {"lr": 0.002, "method": "adamw"}),
    (TicksMuon, {"lr": 0.02, "method": "ticks"}),
]


def train(model: Net, optimizer: torch.optim.Optimizer, ticks: int = 30) -> dict[str, Tensor]:
    for seed in range(ticks):
        for beat in range(2):
            batch = replay.draw_batch(8, 2 * seed + beat)
            (replay.summed_loss(model, batch) / 16).backward()
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_all_that_is_held_is_float32(kind: Any, options: dict[str, Any], dtype: Any) -> None:
    model = Net(dtype)
    optimizer = kind(model.parameters(), **options)
    replay.summed_loss(model, replay.draw_batch(8, 0)).backward()
    assert model.dense.weight.dtype == dtype
    assert model.dense.weight.grad.dtype == FP32
    train(model, optimizer, 3)
    for parameter, state in optimizer.state.items():
        assert parameter.dtype == dtype
        assert {v.dtype for v in state.values() if isinstance(v, Tensor)} == {FP32}
        assert parameter.grad is None or parameter.grad.dtype == FP32


@pytest.mark.parametrize(("dtype", "near"), [(BF16, 0.1), (FP16, 0.02)])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_training_is_nearly_that_of_float32(
    kind: Any, options: dict[str, Any], dtype: Any, near: float
) -> None:
    half, full = Net(dtype), Net(FP32)
    got, want = (train(model, kind(model.parameters(), **options)) for model in (half, full))
    assert far(got, want) < near
    assert far(dict(Net(dtype).named_parameters()), want) > near


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_many_tiny_beats_are_not_lost(dtype: torch.dtype) -> None:
    """One large beat, then 5,000 that are too small to change it in half precision."""
    beats = [1.0] + [1e-4] * 5000
    exact = sum(torch.tensor(beat, dtype=dtype).double().item() for beat in beats)
    parameter, plain = (nn.Parameter(torch.zeros(2, dtype=dtype)) for _ in range(2))
    optimizer = Ticks([parameter], 1.0, 0.0, max_grad_norm=None)
    for beat in beats:
        for each in (parameter, plain):
            each.backward(torch.full((2,), beat, dtype=dtype))
    assert parameter.grad.tolist() == pytest.approx([exact] * 2, rel=1e-4)
    assert plain.grad.dtype == dtype
    assert plain.grad.tolist() == [1.0] * 2
    optimizer.step()
    assert parameter.tolist() == pytest.approx([-exact] * 2, rel=2**-8)


def test_gradients_from_before_are_taken_in_float32() -> None:
    parameter = nn.Parameter(torch.ones(2, dtype=BF16))
    parameter.sum().backward()
    Ticks([parameter], 1.0)
    assert parameter.grad.dtype == FP32
    parameter.sum().backward()
    assert parameter.grad.tolist() == [2.0, 2.0]


def test_full_precision_is_left_alone() -> None:
    for dtype in (FP32, FP64, torch.complex64):
        parameter = nn.Parameter(torch.ones(2, dtype=dtype))
        Ticks([parameter], 1.0)
        parameter.backward(torch.ones(2, dtype=dtype))
        assert parameter.grad.dtype == dtype


@pytest.mark.parametrize("kind", [Ticks, TicksSign])
def test_stochastic_rounding_loses_no_update(kind: Any) -> None:
    """Steps of a hundredth of the distance of bfloat16 numbers near one."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.ones(2000, dtype=BF16)) for _ in range(2)]
    optimizers = [
        kind([p], 2**-8 / 100, 0.0, stochastic_rounding=random)
        for p, random in zip(parameters, (True, False), strict=True)
    ]
    for _ in range(1000):
        for parameter, optimizer in zip(parameters, optimizers, strict=True):
            parameter.backward(torch.ones_like(parameter))
            optimizer.step()
    rounded, lost = (p.detach().double().mean().item() for p in parameters)
    assert 1 - rounded == pytest.approx(1000 * 2**-8 / 100, rel=0.02)
    assert lost == 1


@pytest.mark.parametrize(
    ("kind", "options"), [(Ticks, {"decoupled": True}), (Ticks, {"momentum": 0.0}), (TicksSign, {})]
)
def test_stochastic_rounding_loses_no_decay(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.ones(2000, dtype=BF16))
    optimizer = kind([parameter], 1e-3, weight_decay=0.1, stochastic_rounding=True, **options)
    for _ in range(1000):
        parameter.backward(torch.zeros_like(parameter))
        optimizer.step()
    assert parameter.detach().double().mean().item() == pytest.approx(0.9999**1000, rel=1e-3)


@pytest.mark.parametrize("kind", [Ticks, TicksSign])
def test_stochastic_rounding_is_torchs_to_seed(kind: Any) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        model = Net(BF16)
        optimizer = kind(model.parameters(), 1e-3, stochastic_rounding=True)
        torch.manual_seed(seed)
        return train(model, optimizer)

    assert same(trained(1), trained(1))
    assert not same(trained(1), trained(2))
