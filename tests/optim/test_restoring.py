"""A search leaves no trace: whatever the optimizer, wherever the run is, however it ends."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.optim import (
    find_learning_rate,
    windows,
)
from tests.optim.searches import PLACES, ROSTER, everything, running, some, summed, train


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ROSTER)
def test_leaves_no_trace(name: str, place: str) -> None:
    model, optimizer = running(name, place)
    before = everything(model, optimizer)
    search = find_learning_rate(model, optimizer, windows(some(24), 2, len), summed, ticks=12)
    assert len(set(search.losses)) > 3  # it did train
    after = everything(model, optimizer)
    for part, value in before.items():
        assert after[part] == value, part


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ROSTER)
def test_training_goes_on_as_if_there_had_been_no_search(name: str, place: str) -> None:
    results = []
    for searched in (False, True):
        model, optimizer = running(name, place)
        if searched:
            find_learning_rate(model, optimizer, windows(some(24), 2, len), summed, ticks=12)
        model.train()
        inner = getattr(optimizer, "optimizer", optimizer)
        if PLACES[place][1]:  # the second beat
            (summed(model, some(1, seed=1)[0]) / 8).backward()
            optimizer.step()
        losses = train(model, optimizer, windows(some(6, seed=2), 2, len), summed)
        results.append((losses, [p.tolist() for p in model.parameters()], str(inner.state_dict())))
    assert results[0] == results[1]


def test_a_sum_is_the_gradient_again() -> None:
    model, optimizer = running("Ticks", "beat")
    find_learning_rate(model, optimizer, windows(some(24), 2, len), summed, ticks=12)
    for parameter in model.inside():
        assert parameter.grad is optimizer.state[parameter]["accumulated"]
    optimizer.step()  # of the beat before the search
    with pytest.raises(ConfigError, match="at least one beat"):
        optimizer.step()


def test_a_gradient_that_was_taken_away_stays_away() -> None:
    model, optimizer = running("Ticks", "tick")
    model.zero_grad()
    before = everything(model, optimizer)
    find_learning_rate(model, optimizer, windows(some(24), 2, len), summed, ticks=12)
    assert everything(model, optimizer) == before
    assert model.first.weight.grad is None


class Interrupted(BaseException):
    """No Exception: like Ctrl-C."""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("call", [1, 2, 9, 10])  # in the middle of a window, and at its beginning
@pytest.mark.parametrize("name", ["AdamW", "Ticks", "Ticks, max_grad_norm", "TicksAdam"])
def test_an_interruption_leaves_no_trace(name: str, call: int, error: type[BaseException]) -> None:
    model, optimizer = running(name, "beat")
    before = everything(model, optimizer)
    calls = itertools.count(1)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        value = summed(model, batch)
        model.eval()
        if next(calls) == call:
            raise error("stop")
        return value

    with pytest.raises(error, match="stop"):
        find_learning_rate(model, optimizer, windows(some(24), 2, len), loss, ticks=12)
    assert everything(model, optimizer) == before


def test_windows_that_fail_leave_no_trace() -> None:
    model, optimizer = running("TicksAdam", "beat")
    before = everything(model, optimizer)

    def batches() -> Iterator[Tensor]:
        yield from some(9)
        torch.rand(3)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        find_learning_rate(model, optimizer, windows(batches(), 2, len), summed)
    assert everything(model, optimizer) == before


def test_a_scheduler_does_not_take_the_search_for_training() -> None:
    model, optimizer = running("SGD", "beginning")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    find_learning_rate(model, optimizer, windows(some(24), 2, len), summed, ticks=12)
    with pytest.warns(UserWarning, match=r"optimizer\.step\(\)"):
        scheduler.step()
