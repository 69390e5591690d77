"""What is found out about a task before its first tick."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.errors import ConfigError, DataError, DivergenceError
from metronorm.train import Task
from metronorm.train.first_beat import check_batch
from metronorm.train.precision import discarding_gradients
from metronorm.train.step import Step

from .stranger import small


def check(model: nn.Module, loss: Any, batch: Any, count: Any = len, **more: Any) -> None:
    """As the loop does."""
    step = Step(Task(lambda: model, [], loss, count, **more), small(), model, torch.device("cpu"))
    with discarding_gradients(model):
        check_batch(step, batch)


def inputs(rows: int = 8) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))


def squares(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).square().sum()


class Recurrent(nn.Module):
    """Time first, as torch has it by default; returns outputs and the hidden state."""

    def __init__(self, *, keeps_state: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 3)
        self.hidden: Tensor | None = None
        self.keeps_state = keeps_state

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        outputs, hidden = self.rnn(sequence, self.hidden if self.keeps_state else None)
        self.hidden = hidden.detach()
        return outputs, hidden


class WholeBatches(nn.Module):
    """A model that is made for batches of eight."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1))
        self.error = error

    def forward(self, batch: Tensor) -> Tensor:
        if len(batch) != 8:
            raise self.error("eight rows, please")
        return batch * self.scale


MODELS: dict[str, tuple[Any, Any, Any]] = {
    "linear": (lambda: nn.Linear(4, 2), squares, inputs()),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
        squares,
        inputs(),
    ),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), squares, inputs()),
    "recurrent": (
        Recurrent,
        lambda model, batch: model(batch)[0].square().sum(),
        torch.randn(6, 3, 4),
    ),
    "recurrent, with its state kept": (
        lambda: Recurrent(keeps_state=True),
        lambda model, batch: model(batch)[0].square().sum(),
        torch.randn(6, 3, 4),
    ),
    "whole batches: assertion": (lambda: WholeBatches(AssertionError), squares, inputs()),
    "whole batches: type error": (lambda: WholeBatches(TypeError), squares, inputs()),
    "one example": (lambda: nn.Linear(4, 2), squares, inputs(1)),
    "one vector": (lambda: nn.Linear(4, 2), squares, inputs(1)[0]),
    "a loss of zero": (
        lambda: nn.Linear(4, 2),
        lambda model, batch: model(batch).sum() * 0,
        inputs(),
    ),
    "an array": (lambda: nn.Linear(4, 2), squares, np.ones((8, 4), dtype=np.float32)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_sum_is_not_warned_of(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, loss, batch = MODELS[name]
    with caplog.at_level(logging.WARNING):
        check(make(), loss, batch, lambda batch: len(batch))
    assert caplog.text == ""


MEANS = {
    "linear": (lambda: nn.Linear(4, 2), lambda m, x: m(x).square().mean()),
    "batch norm": (MODELS["batch norm"][0], lambda m, x: m(x).square().mean()),
    "cross entropy": (
        lambda: nn.Linear(4, 3),
        lambda m, x: F.cross_entropy(m(x), torch.zeros(len(x), dtype=torch.int64)),
    ),
}


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("rows", [8, 7])
def test_a_mean_is_warned_of(name: str, rows: int, caplog: pytest.LogCaptureFixture) -> None:
    make, loss = MEANS[name]
    with caplog.at_level(logging.WARNING):
        check(make(), loss, inputs(rows))
    assert "seems to be a mean" in caplog.text
    assert f"each update is {rows} times too small" in caplog.text


@pytest.mark.parametrize(
    "count",
    [
        lambda batch: 8,  # whatever the batch
        lambda batch: len(batch) // 8,  # a half has nothing to count
        lambda batch: {8: 8}[len(batch)],  # an error for a half
    ],
)
def test_what_cannot_be_halved_is_not_judged(count: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check(nn.Linear(4, 2), lambda m, x: m(x).square().mean(), inputs(), count)
    assert caplog.text == ""


class Hidden(nn.Linear):
    """With a buffer that no checkpoint has: filled once, or changed by every pass."""

    def __init__(self, *, once: bool) -> None:
        super().__init__(4, 2)
        self.once = once
        self.register_buffer("shift", torch.zeros(2), persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        if self.training:
            self.shift = torch.ones(2) if self.once else 1 + self.shift
        return super().forward(batch) + self.shift


@pytest.mark.parametrize("once", [True, False])
def test_buffers_that_no_checkpoint_has(caplog: pytest.LogCaptureFixture, once: bool) -> None:
    check(Hidden(once=once), squares, inputs())
    said = "will not be exact: every forward pass changes shift, which no checkpoint has"
    assert (said in caplog.text) is not once


def test_a_loss_of_its_own_backward_is_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    def accumulate(model: nn.Module, batch: Any, weight: float) -> Tensor:
        part = model(batch).square().mean() * weight
        part.backward()
        return part

    with caplog.at_level(logging.WARNING):
        check(nn.Linear(4, 2), squares, inputs(), accumulate=accumulate)
    assert caplog.text == ""


def test_modes_gradients_and_random_numbers_are_as_before() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    net[1].eval()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    check(net, squares, inputs())
    assert net.training
    assert not net[1].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        (
            {"loss": lambda m, x: m(x).square().sum(1)},
            ConfigError,
            "must be a scalar.*several numbers",
        ),
        (
            {"loss": lambda m, x: m(x).square().sum().reshape(1)},
            ConfigError,
            r"must be a scalar.*\(1,\)",
        ),
        ({"loss": lambda m, x: 0.5}, ConfigError, "a loss must be a tensor; got float"),
        ({"loss": lambda m, x: (m(x).sum(), 1)}, ConfigError, "a loss must be a tensor; got tuple"),
        ({"loss": lambda m, x: x.sum()}, ConfigError, "one without a gradient"),
        ({"batch": inputs() / 0}, DivergenceError, r"shapes \(8, 4\); 32 numbers in it are not"),
        ({"model": nn.Identity()}, ConfigError, "parameters that can be trained; got a Identity"),
        ({"count": lambda x: 0}, DataError, "something to count; got 0"),
        ({"count": lambda x: -3}, DataError, "something to count; got -3"),
        ({"count": lambda x: 2.5}, ConfigError, "count must give a whole number; got 2.5"),
        ({"count": lambda x: None}, ConfigError, "count must give a whole number; got None"),
        ({"count": lambda x: x}, ConfigError, "count must give a whole number; got tensor"),
        ({"count": lambda x: float("nan")}, ConfigError, "count must give a whole number; got nan"),
    ],
)
def test_one_clear_error(changes: dict[str, Any], kind: type[Exception], says: str) -> None:
    usual = {"model": nn.Linear(4, 2), "loss": squares, "batch": inputs()}
    with pytest.raises(kind, match=says):
        check(**usual | changes)


@pytest.mark.parametrize("count", [lambda x: torch.tensor(8), lambda x: 8.0, lambda x: np.int32(8)])
def test_a_count_may_be_any_whole_number(count: Any) -> None:
    check(nn.Linear(4, 2), squares, inputs(), count)


def test_an_error_of_the_users_own_is_not_changed() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        raise RuntimeError("the third layer is missing")

    with pytest.raises(RuntimeError, match="the third layer is missing"):
        check(nn.Linear(4, 2), loss, inputs())
