"""With torch.amp.GradScaler: as without it, and windows that overflow are dropped whole."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from metronorm.optim.accumulator import Accumulator
from tests.optim import replay
from tests.optim.replay import FP16, FP32, Net, refused, same

KINDS: list[Any] = [
    lambda params: Ticks(params, 0.02),
    lambda params: Ticks(params, 0.02, max_grad_norm=0.5),
    lambda params: TicksSign(params, 0.02),
    lambda params: TicksMuon(params, 0.02, method="ticks"),
    lambda params: TicksMuon(params, 0.02, method="adamw"),
]


def scaler() -> GradScaler:
    return GradScaler("cpu", init_scale=1024.0, growth_interval=3)


def scaled_run(
    model: Net,
    optimizer: torch.optim.Optimizer,
    *,
    overflows: tuple[int, ...] = (),
    clip: float | None = None,
) -> GradScaler:
    amp = scaler()
    for seed in range(12):
        for beat in range(2):
            loss = replay.summed_loss(model, replay.draw_batch(4, 2 * seed + beat)) / 8
            amp.scale(loss * (torch.inf if seed in overflows and beat else 1)).backward()
        if clip is not None:
            amp.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), clip)
        amp.step(optimizer)
        amp.update()
        optimizer.zero_grad()
    return amp


def plain_run(
    model: Net,
    optimizer: torch.optim.Optimizer,
    *,
    without: tuple[int, ...] = (),
    clip: float | None = None,
) -> None:
    for seed in range(12):
        if seed in without:
            continue
        for beat in range(2):
            (replay.summed_loss(model, replay.draw_batch(4, 2 * seed + beat)) / 8).backward()
        if clip is not None:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        model.zero_grad()


def equal(given: Net, other: Net) -> bool:
    return same(dict(given.named_parameters()), dict(other.named_parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_changes_nothing(kind: Any) -> None:
    """Bitwise: scales are powers of two."""
    given, other = Net(FP32), Net(FP32)
    amp = scaled_run(given, kind(given.parameters()))
    plain_run(other, kind(other.parameters()))
    assert equal(given, other)
    assert amp.get_scale() == 1024 * 2**4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overflows", [(0,), (5,), (3, 4, 11)])
def test_windows_that_overflow_were_never_there(kind: Any, overflows: tuple[int, ...]) -> None:
    given, other = Net(FP32), Net(FP32)
    optimizer = kind(given.parameters())
    amp = scaled_run(given, optimizer, overflows=overflows)
    plain_run(other, kind(other.parameters()), without=overflows)
    assert equal(given, other)
    assert optimizer.skipped == len(overflows)
    assert amp.get_scale() < 1024 * 2**4


@pytest.mark.parametrize("overflows", [(), (2,)])
def test_clipping_what_was_unscaled(overflows: tuple[int, ...]) -> None:
    given, other = Net(FP32), Net(FP32)
    optimizer = Ticks(given.parameters(), 0.02, foreach=False)
    scaled_run(given, optimizer, overflows=overflows, clip=0.5)
    plain_run(other, SGD(other.parameters(), 0.02, 0.9), without=overflows, clip=0.5)
    assert equal(given, other)
    assert optimizer.skipped == len(overflows)


def test_half_precision_parameters() -> None:
    given, other = Net(FP16), Net(FP16)
    scaled_run(given, Ticks(given.parameters(), 0.02))
    plain_run(other, Ticks(other.parameters(), 0.02))
    for got, want in zip(given.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=0.01, atol=0.01)


def test_that_it_takes_memory_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(FP32)
    with caplog.at_level("INFO", "metronorm"):
        scaled_run(model, Ticks(model.parameters(), 0.02))
    assert [text for text in caplog.messages if "separate" in text] == [
        "a GradScaler keeps .grad separate from the sum: 0.0 MiB more"
    ]


def test_a_scaler_that_is_switched_off_costs_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer, amp = Ticks([parameter], 0.1), GradScaler("cpu", enabled=False)
    for _ in range(2):
        amp.scale((parameter**2).sum()).backward()
        amp.step(optimizer)
        amp.update()
        assert parameter.grad is optimizer.state[parameter]["accumulated"]


def started(optimizer: Accumulator, parameter: nn.Parameter) -> None:
    (parameter**2).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("unscale", [False, True])
def test_a_scaler_cannot_begin_later(unscale: bool) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer, amp = Ticks([parameter], 0.1), scaler()
    started(optimizer, parameter)
    before = parameter.detach().clone()
    amp.scale((parameter**2).sum()).backward()
    total = optimizer.state[parameter]["accumulated"].clone()
    if unscale:
        amp.unscale_(optimizer)
        total /= 1024
    refused(
        ConfigError,
        lambda: amp.step(optimizer),
        "separate from the sum",
        "from the first tick",
    )
    assert torch.equal(parameter, before)
    assert torch.equal(optimizer.state[parameter]["accumulated"], total)


def test_a_scaler_can_begin_where_gradients_were_dropped() -> None:
    given, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    ours, plain, amp = Ticks([given], 0.1), Ticks([other], 0.1), scaler()
    started(ours, given)
    given.grad = None
    for _ in range(3):
        amp.scale((given**2).sum()).backward()
        amp.step(ours)
        amp.update()
    for _ in range(4):
        started(plain, other)
    assert torch.equal(given, other)


@pytest.mark.parametrize("unscale", [False, True])
def test_squares_cannot_be_unscaled(unscale: bool) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer, amp = TicksAdam([parameter], 0.1), scaler()
    amp.scale((parameter**2).sum()).backward()
    if unscale:
        amp.unscale_(optimizer)
    refused(ConfigError, lambda: amp.step(optimizer), "GradScaler", "bfloat16")
    assert torch.equal(parameter, torch.ones(3))
