"""Windows that are not finite: refused, or dropped whole."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from metronorm.errors import DivergenceError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from tests.optim import replay
from tests.optim.replay import Windows, history, refused, same

WRONG = pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])


def spoilt(recorded: Windows, ticks: set[int], wrong: float) -> Windows:
    """One element of the last beat of these windows is not finite."""
    result = []
    for tick, beats in enumerate(recorded):
        last = {name: gradient.clone() for name, gradient in beats[-1].items()}
        if tick in ticks:
            last["dense.weight"][1, 2] = wrong
        result.append([*beats[:-1], last])
    return result


@WRONG
@pytest.mark.parametrize("limits", [{}, {"max_grad_norm": 1.0}, {"max_beat_norm": 1.0}])
def test_raising_leaves_the_parameters(wrong: float, limits: dict[str, float]) -> None:
    given = replay.parameters()
    optimizer = Ticks(given.values(), 0.01, **limits)
    replay.replay(optimizer, given, history(5))
    before = {name: parameter.detach().clone() for name, parameter in given.items()}
    sums = {
        n: optimizer.state[p]["accumulated"].clone()
        for n, p in given.items()
        if p in optimizer.state
    }
    for beat in spoilt(history(6)[5:], {0}, wrong)[0]:
        replay.backward(given, beat)
    refused(DivergenceError, optimizer.step, "must be finite", 'on_nonfinite="skip"')
    assert same(given, before)
    if limits:  # separate: the window is not in the sums either
        assert same({n: optimizer.state[given[n]]["accumulated"] for n in sums}, sums)
        optimizer.zero_grad()
        replay.replay(optimizer, given, history(7)[6:])
        assert all(bool(parameter.isfinite().all()) for parameter in given.values())


@WRONG
@pytest.mark.parametrize("kind", [TicksSign, TicksAdam, TicksMuon])
def test_every_kind_raises(kind: Any, wrong: float) -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = kind([parameter], 0.1)
    parameter.sum().backward()
    optimizer.step()
    before = parameter.detach().clone()
    (wrong * parameter).sum().backward()
    refused(DivergenceError, optimizer.step, "must be finite")
    assert torch.equal(parameter, before)


@WRONG
@pytest.mark.parametrize("ticks", [{0}, {7}, {0, 1, 4, 19}])
def test_skipped_windows_were_never_there(ticks: set[int], wrong: float) -> None:
    given, other = replay.parameters(), replay.parameters()
    optimizer = Ticks(given.values(), 0.01, on_nonfinite="skip", foreach=False)
    replay.replay(optimizer, given, spoilt(history(20), ticks, wrong))
    seen = [beats for tick, beats in enumerate(history(20)) if tick not in ticks]
    replay.replay_torch(SGD(other.values(), 0.01, 0.9), other, seen)
    assert same(given, other)
    assert optimizer.skipped == len(ticks)


def test_none_does_not_look() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Ticks([parameter], 0.1, on_nonfinite=None)
    (math.nan * parameter).sum().backward()
    optimizer.step()
    assert bool(parameter.isnan().all())
    assert optimizer.skipped == 0


def test_large_gradients_are_finite() -> None:
    """Even where their squares are not."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = Ticks([parameter], 1e-30)
    (1e30 * parameter).sum().backward()
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((2,), -1.0))


@WRONG
def test_squares_that_were_spoilt_stay_refused(wrong: float) -> None:
    """The window can be dropped, but not its square in the second moment of TicksAdam."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = TicksAdam([parameter], 0.1)
    for slope in (1.0, wrong, 1.0):
        (slope * parameter).sum().backward()
        before = parameter.detach().clone()
        if slope == 1.0 and optimizer.state[parameter]["squares"].isfinite().all():
            optimizer.step()
        else:
            refused(DivergenceError, optimizer.step, "must be finite")
            assert torch.equal(parameter, before)
        parameter.grad = None
    assert optimizer.state[parameter]["step"] == 1


@WRONG
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"carry": "separate"}], ids=str)
@pytest.mark.parametrize("kind", [Ticks, TicksSign, TicksMuon])
def test_without_momentum_nothing_stays_of_what_was_not_finite(
    kind: Any, options: dict[str, Any], wrong: float
) -> None:
    """Zero times infinity is NaN, for ever; as in SGD, a parameter that was repaired trains on."""
    if kind is not Ticks and "foreach" in options:
        return
    parameter = nn.Parameter(torch.ones(2, 2))
    more = {"method": "ticks"} if kind is TicksMuon else {}
    optimizer = kind([parameter], 0.1, 0.0, on_nonfinite=None, **options, **more)
    (wrong * parameter).sum().backward()
    optimizer.step()
    parameter.data.fill_(1.0)
    parameter.sum().backward()
    optimizer.step()
    assert parameter.flatten().tolist() == pytest.approx([0.9] * 4)


def test_a_momentum_that_falls_to_zero_leaves_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Ticks([parameter], 0.1, 0.9, on_nonfinite=None, carry="separate")
    (math.inf * parameter).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.0
    parameter.data.fill_(1.0)
    parameter.sum().backward()
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.9] * 2)
