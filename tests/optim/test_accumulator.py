"""Training loops of every style: the sum stays right, or a clear error says why it cannot."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from metronorm.optim.accumulator import Accumulator
from tests.optim import replay
from tests.optim.replay import FP64, ROUNDING, Net, Parameters, far, history, refused, same

KINDS: list[Callable[[Any], Accumulator]] = [
    lambda params: Ticks(params, 0.01, weight_decay=0.01),
    lambda params: Ticks(params, 0.01, max_grad_norm=1.0),
    lambda params: TicksSign(params, 0.01),
    lambda params: TicksAdam(params, 0.01),
    lambda params: TicksMuon(params, 0.01, method="ticks"),
    lambda params: TicksMuon(params, 0.01, method="adamw"),
]
NAMES = ["ticks", "separate", "sign", "adam", "muon ticks", "muon adamw"]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
in_place = pytest.mark.parametrize("kind", KINDS[:1] + KINDS[2:5], ids=NAMES[:1] + NAMES[2:5])


def drop(given: Parameters) -> None:
    """What model.zero_grad() does."""
    for parameter in given.values():
        parameter.grad = None


# Dropping gradients ------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_of_the_optimizer_changes_no_sum(kind: Any, set_to_none: bool) -> None:
    """After the step, and before the first beat of a window."""
    given, other = replay.parameters(), replay.parameters()
    ours, plain = kind(given.values()), kind(other.values())
    replay.replay(plain, other, history(20))
    for beats in history(20):
        ours.zero_grad(set_to_none)
        for beat in beats:
            replay.backward(given, beat)
        ours.step()
        ours.zero_grad(set_to_none)
    assert same(given, other)


@in_place
def test_zero_grad_of_the_optimizer_inside_a_window_is_refused(kind: Any) -> None:
    """That is, after the first tick, which begins the sum. Gradients before it are dropped."""
    given, other = replay.parameters(), replay.parameters()
    ours, plain = kind(given.values()), kind(other.values())
    replay.replay(plain, other, history(20))
    for tick, beats in enumerate(history(20)):
        for beat in beats:
            replay.backward(given, beat)
            if tick:
                refused(ConfigError, ours.zero_grad, "cannot take back", "since the last step()")
        ours.step()
    assert same(given, other)
    first = nn.Parameter(torch.ones(2))
    unstarted = kind([first])
    first.sum().backward()
    unstarted.zero_grad()
    assert first.grad is None


@each_kind
def test_model_zero_grad_after_a_step_changes_little(kind: Any) -> None:
    """Only the order of additions: beats are added up before they are added to the sum."""
    given, other = replay.parameters(), replay.parameters()
    replay.replay(kind(given.values()), given, history(20), after=lambda: drop(given))
    replay.replay(kind(other.values()), other, history(20))
    assert far(given, other) < 20 * ROUNDING[FP64]


def test_model_zero_grad_after_a_step_is_exactly_sgd() -> None:
    """Bitwise, with many beats in a window: the order of additions is that of SGD."""
    given, other = replay.parameters(), replay.parameters()
    optimizer = Ticks(given.values(), 0.01, foreach=False)
    replay.replay(optimizer, given, history(200), after=lambda: drop(given))
    replay.replay_torch(SGD(other.values(), 0.01, 0.9), other, history(200))
    assert same(given, other)


@each_kind
def test_styles_can_alternate(kind: Any) -> None:
    given, other = replay.parameters(), replay.parameters()
    ours, styles = kind(given.values()), 3
    for tick, beats in enumerate(history(60)):
        for beat in beats:
            replay.backward(given, beat)
        ours.step()
        if tick % styles == 0:
            drop(given)
        elif tick % styles == 1:
            ours.zero_grad()
    replay.replay(kind(other.values()), other, history(60))
    assert far(given, other) < 20 * ROUNDING[FP64]


@pytest.mark.parametrize("how", ["none", "replaced"])
@in_place
def test_gradients_that_are_taken_away_inside_a_window_are_noticed(kind: Any, how: str) -> None:
    model = Net()
    ours = kind(model.parameters())
    batch = replay.draw_batch(5, 0)
    for _ in range(2):
        replay.summed_loss(model, batch).backward()
        ours.step()
    replay.summed_loss(model, batch).backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sums = {
        name: ours.state[p]["accumulated"].clone()
        for name, p in model.named_parameters()
        if p in ours.state
    }
    weight = model.dense.weight
    weight.grad = None if how == "none" else torch.ones_like(weight)
    refused(ConfigError, ours.step, "in the middle of a window", "model.zero_grad() right after")
    assert same(dict(model.named_parameters()), before)
    now = {
        name: ours.state[p]["accumulated"]
        for name, p in model.named_parameters()
        if p in ours.state
    }
    assert same(now, sums)
    weight.grad = ours.state[weight]["accumulated"]  # where it was
    ours.step()


@pytest.mark.filterwarnings("ignore:Using backward")  # torch, of create_graph
@in_place
def test_a_gradient_that_is_part_of_a_graph_is_refused(kind: Any) -> None:
    """`backward(create_graph=True)` makes a new .grad, sum and all, instead of adding to it."""
    parameter = nn.Parameter(torch.ones(3, dtype=FP64))
    ours = kind([parameter])
    (parameter**3).sum().backward()
    ours.step()
    before, total = parameter.detach().clone(), ours.state[parameter]["accumulated"].clone()

    def tick() -> None:
        (parameter**3).sum().backward(create_graph=True)
        ours.step()

    refused(ConfigError, tick, "in place", "create_graph=True")
    assert torch.equal(parameter, before)
    assert torch.equal(ours.state[parameter]["accumulated"], total)


# Memory ------------------------------------------------------------------------------------------


def held(optimizer: Accumulator, given: Parameters) -> set[int]:
    """Storages of gradients and of the optimizer."""
    tensors: list[Tensor] = [p.grad for p in given.values() if p.grad is not None]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return {each.untyped_storage().data_ptr() for each in tensors}


def test_the_gradient_is_all_the_memory_there_is() -> None:
    given = replay.parameters()
    optimizer = Ticks(given.values(), 0.01)
    replay.replay(optimizer, given, history(4))
    first = held(optimizer, given)
    assert len(first) == len(optimizer.state) == 6
    for beats in history(8)[4:]:
        for beat in beats:
            replay.backward(given, beat)
            assert held(optimizer, given) == first
        optimizer.step()
        assert held(optimizer, given) == first
        for parameter, state in optimizer.state.items():
            assert parameter.grad is state["accumulated"]


def test_limits_cost_one_more_buffer_while_a_window_is_open() -> None:
    given = replay.parameters()
    optimizer = Ticks(given.values(), 0.01, max_grad_norm=1.0)
    replay.replay(optimizer, given, history(4))
    assert all(parameter.grad is None for parameter in given.values())
    assert len(held(optimizer, given)) == 6
    beat = history(8)[4][0]
    replay.backward(given, beat)
    assert len(held(optimizer, given)) == 6 + len(beat)


@pytest.mark.parametrize("beats", [1, 2])
def test_that_memory_is_used_is_logged_once(beats: int, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(512, 1024, bias=False)
    optimizer = Ticks(model.parameters(), 0.01)
    with caplog.at_level(logging.INFO, "metronorm"):
        for tick in range(4):
            for _ in range(beats):
                model.weight.sum().backward()
            optimizer.step()
            assert len(caplog.messages) == (tick > 0)
            model.zero_grad()
    assert caplog.messages == [
        "a loop that takes .grad away keeps .grad separate from the sum: 2.0 MiB more"
    ]


def test_in_place_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "metronorm"):
        for options in ({}, {"max_grad_norm": 1.0}, {"max_update_norm": 1.0}):
            given = replay.parameters()
            optimizer = Ticks(given.values(), 0.01, **options)
            replay.replay(optimizer, given, history(4), after=optimizer.zero_grad)
    assert caplog.messages == []
