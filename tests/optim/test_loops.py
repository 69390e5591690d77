"""What loops do to optimizers: closures, schedules, hooks, rates that are tensors, compilation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from tests.optim import replay
from tests.optim.replay import FP32, FP64, ROUNDING, Net, far, history, refused, same

OPTIONS: dict[str, Any] = {"lr": 0.02, "momentum": 0.9}


def train(
    model: Net, optimizer: torch.optim.Optimizer, ticks: int = 40, schedule: Any = None
) -> dict[str, nn.Parameter]:
    """In the style of most loops: gradients of the model are dropped after each step."""
    for seed in range(ticks):
        (replay.summed_loss(model, replay.draw_batch(8, seed)) / 8).backward()
        optimizer.step()
        model.zero_grad()
        if schedule is not None:
            schedule.step()
    return dict(model.named_parameters())


def train_in_place(
    model: Net, optimizer: torch.optim.Optimizer, ticks: int = 40, schedule: Any = None
) -> dict[str, nn.Parameter]:
    for seed in range(ticks):
        (replay.summed_loss(model, replay.draw_batch(8, seed)) / 8).backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule is not None:
            schedule.step()
    return dict(model.named_parameters())


LOOPS = pytest.mark.parametrize("loop", [train, train_in_place])


# Closures and hooks ------------------------------------------------------------------------------


def test_closures() -> None:
    given, other = Net(), Net()
    ours = Ticks(given.parameters(), **OPTIONS, foreach=False)
    sgd = SGD(other.parameters(), **OPTIONS)
    for seed in range(20):
        batch, losses = replay.draw_batch(8, seed), []
        for model, optimizer in ((given, ours), (other, sgd)):

            def closure(model: Any = model, optimizer: Any = optimizer, batch: Any = batch) -> Any:
                optimizer.zero_grad()
                loss = replay.summed_loss(model, batch)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure))
        assert torch.equal(*losses)
    assert same(dict(given.named_parameters()), dict(other.named_parameters()))


def test_without_a_closure_nothing_is_returned() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Ticks([parameter], 0.1)
    parameter.sum().backward()
    assert optimizer.step() is None


def test_hooks_are_called_around_a_step() -> None:
    model, calls = Net(), []
    optimizer = Ticks(model.parameters(), 0.1)
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append(model.dense.bias.tolist())),
        optimizer.register_step_post_hook(lambda *_: calls.append(model.dense.bias.tolist())),
    ]
    for _ in range(2):
        replay.summed_loss(model, replay.draw_batch(8, 0)).backward()
        optimizer.step()
    assert len(calls) == 4
    assert calls[0] != calls[1] == calls[2] != calls[3]
    for handle in handles:
        handle.remove()
    replay.summed_loss(model, replay.draw_batch(8, 0)).backward()
    optimizer.step()
    assert len(calls) == 4


# Schedules ---------------------------------------------------------------------------------------


@LOOPS
@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: CosineAnnealingLR(optimizer, 30),
        lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=41, cycle_momentum=False),
    ],
    ids=["cosine", "one cycle"],
)
def test_learning_rate_schedules(schedule: Any, loop: Any) -> None:
    given, other = Net(), Net()
    ours = Ticks(given.parameters(), **OPTIONS, foreach=False)
    sgd = SGD(other.parameters(), **OPTIONS)
    got, want = loop(given, ours, 40, schedule(ours)), train(other, sgd, 40, schedule(sgd))
    assert same(got, want)
    assert ours.param_groups[0]["lr"] == sgd.param_groups[0]["lr"] != OPTIONS["lr"]


def one_cycle(optimizer: torch.optim.Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, 0.1, total_steps=41, base_momentum=0.5, max_momentum=0.95)


def test_momentum_can_cycle_where_gradients_are_apart() -> None:
    given, other = Net(), Net()
    ours, sgd = Ticks(given.parameters(), **OPTIONS), SGD(other.parameters(), **OPTIONS)
    got, want = train(given, ours, 40, one_cycle(ours)), train(other, sgd, 40, one_cycle(sgd))
    assert far(got, want) < 100 * ROUNDING[FP64]


def test_momentum_can_cycle_with_limits() -> None:
    given, other = Net(), Net()
    ours = Ticks(given.parameters(), **OPTIONS, max_grad_norm=1e9)
    sgd = SGD(other.parameters(), **OPTIONS)
    got = train_in_place(given, ours, 40, one_cycle(ours))
    assert far(got, train(other, sgd, 40, one_cycle(sgd))) < 100 * ROUNDING[FP64]


def test_momentum_cannot_cycle_in_place() -> None:
    model = Net()
    optimizer = Ticks(model.parameters(), **OPTIONS)
    schedule = one_cycle(optimizer)
    train_in_place(model, optimizer, 1, schedule)
    replay.summed_loss(model, replay.draw_batch(8, 1)).backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    refused(ConfigError, optimizer.step, "momentum can change only while", "model.zero_grad()")
    assert same(dict(model.named_parameters()), before)


def test_momentum_cannot_rise_from_zero() -> None:
    """Refused before anything has changed, in groups before this one too."""
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [first]}, {"params": [second], "momentum": 0.0}]
    optimizer = Ticks(groups, 0.1, max_grad_norm=1e9)
    for _ in range(2):
        (first.sum() + second.sum()).backward()
        optimizer.step()
    optimizer.param_groups[1]["momentum"] = 0.5
    (first.sum() + second.sum()).backward()
    before = [first.detach().clone(), optimizer.state[first]["accumulated"].clone()]
    refused(ConfigError, optimizer.step, "cannot rise from 0", "got 0.5")
    assert torch.equal(first, before[0])
    assert torch.equal(optimizer.state[first]["accumulated"], before[1])
    optimizer.param_groups[1]["momentum"] = 0.0
    optimizer.step()


def test_betas_can_cycle_where_gradients_are_apart() -> None:
    """Not as in AdamW: a gradient keeps the factor with which it was added to the sum."""
    model = Net()
    optimizer = TicksAdam(model.parameters(), 0.02)
    train(model, optimizer, 20, one_cycle(optimizer))
    group = optimizer.param_groups[0]
    replay.summed_loss(model, replay.draw_batch(8, 0)).backward()
    optimizer.step()
    assert group["momentum"] == group["betas"][0] < 0.6


@pytest.mark.parametrize("kind", [Ticks, TicksSign, TicksAdam, TicksMuon])
def test_rates_can_be_tensors(kind: Any) -> None:
    options = {"method": "ticks"} if kind is TicksMuon else {}
    given, other = replay.parameters(), replay.parameters()
    rate = torch.tensor(0.015625)
    replay.replay(kind(given.values(), rate, **options), given, history(20))
    replay.replay(kind(other.values(), 0.015625, **options), other, history(20))
    assert same(given, other)


# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}]
)
@pytest.mark.parametrize("limits", [{}, {"max_grad_norm": 1e9}, {"max_update_norm": 1e9}])
def test_complex_parameters(options: dict[str, Any], limits: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(3, 2, dtype=torch.complex64, generator=generator)

    start = draw()
    given, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = Ticks([given], 0.1, **options, **limits)
    sgd = SGD([other], 0.1, 0.9, **options)
    for _ in range(50):
        gradient = draw()
        for parameter, optimizer in ((given, ours), (other, sgd)):
            parameter.backward(gradient)
            optimizer.step()
        sgd.zero_grad()
    torch.testing.assert_close(given, other, rtol=2e-6, atol=2e-6)


def test_scalars_and_empty_parameters() -> None:
    scalar, empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(0, 3))
    for kind in (Ticks, TicksSign, TicksAdam):
        optimizer = kind([scalar, empty], 0.1)
        for _ in range(2):
            (scalar**2 + empty.sum()).backward()
            optimizer.step()
    matrix = nn.Parameter(torch.ones(0, 3))
    optimizer = TicksMuon([matrix], 0.1)
    matrix.sum().backward()
    optimizer.step()


# Compilation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        lambda params: Ticks(params, 0.01),
        lambda params: Ticks(params, 0.01, max_grad_norm=1.0),
        lambda params: TicksAdam(params, 0.01),
    ],
    ids=["in place", "separate", "adam"],
)
def test_a_compiled_step_is_the_same(kind: Any) -> None:
    """Nothing of it is compiled, however: the arithmetic runs as it is."""
    torch.compiler.reset()
    given, other = replay.parameters(FP32), replay.parameters(FP32)
    ours, plain = kind(given.values()), kind(other.values())

    @torch.compile
    def tick() -> None:
        ours.step()
        ours.zero_grad()

    for beats in history(8, FP32):
        for beat in beats:
            replay.backward(given, beat)
        tick()
    replay.replay(plain, other, history(8, FP32))
    assert same(given, other)
