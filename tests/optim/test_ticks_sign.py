"""TicksSign against its equations."""

from typing import Any

import pytest
import torch
from torch import nn

from metronorm.optim import TicksSign, reference
from tests.optim import replay
from tests.optim.replay import FP32, FP64, ROUNDING, TICKS, far, history, same


@pytest.mark.parametrize("dtype", [FP64, FP32])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "weight_decay": 0.1}])
def test_a_thousand_ticks_are_those_of_the_equations(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    """In all elements, except where a sum was so near to zero that rounding changes its sign."""
    given, windows = replay.parameters(dtype), history(TICKS, dtype)
    want = replay.reference(reference.ticks_sign, given, windows, lr=1e-3, **options)
    optimizer = TicksSign(given.values(), 1e-3, **options)
    nearest = {name: torch.full_like(parameter, 1.0) for name, parameter in given.items()}

    def look() -> None:
        for name, parameter in given.items():
            if parameter in optimizer.state:
                total = optimizer.state[parameter]["accumulated"].abs()
                torch.minimum(nearest[name], total, out=nearest[name])

    replay.replay(optimizer, given, windows, after=look)
    clear = {name: each > 50 * ROUNDING[FP32] for name, each in nearest.items()}
    assert sum(int(each.sum()) for each in clear.values()) > 0.8 * sum(
        map(torch.numel, given.values())
    )
    got, want = ({n: each[n][clear[n]] for n in clear} for each in (given, want))
    assert far(got, want) < TICKS * ROUNDING[dtype]


def test_up_is_down_with_the_gradient_turned() -> None:
    up, down = replay.parameters(), replay.parameters()
    turned = [[{name: -g for name, g in beat.items()} for beat in each] for each in history(100)]
    replay.replay(TicksSign(up.values(), 1e-3, maximize=True), up, history(100))
    replay.replay(TicksSign(down.values(), 1e-3), down, turned)
    assert same(up, down)
    assert not same(up, replay.parameters())


def test_every_element_moves_by_the_learning_rate() -> None:
    parameter = nn.Parameter(torch.zeros(4, dtype=FP64))
    optimizer = TicksSign([parameter], 0.25)
    (parameter * torch.tensor([1e-30, -5.0, 0.0, 1e30])).sum().backward()
    optimizer.step()
    assert parameter.tolist() == [-0.25, 0.25, 0.0, -0.25]


def test_the_sign_is_of_the_sum_not_of_a_beat() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=FP64))
    optimizer = TicksSign([parameter], 1.0)
    for gradient in (1.0, 1.0, -3.0):
        (gradient * parameter).sum().backward()
    optimizer.step()
    assert parameter.item() == 1.0
