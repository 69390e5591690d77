"""Training with the loss takes the steps that training with plain logits takes.

The model has tied embeddings, so the weight's gradient comes in two parts: one that is added
straight into `.grad`, and one by autograd.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metronorm.errors import ConfigError, DivergenceError
from metronorm.loss import linear_cross_entropy
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign, windows

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS, WIDTH, ROWS, CHUNK = 11, 6, 9, 4
Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """An embedding, a layer, a norm, and a head that may share its weight with the embedding."""

    def __init__(self, *, tied: bool = True, fast: bool = True, chunk: int = CHUNK) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.dense, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.fast, self.chunk = fast, chunk
        self.double()

    def forward(self, batch: Batch) -> Tensor:
        tokens, targets = batch
        x = self.norm(self.dense(self.embedding(tokens)).tanh())
        if self.fast:
            return linear_cross_entropy(x, self.head.weight, targets, chunk=self.chunk)
        return nn.functional.cross_entropy(self.head(x), targets, reduction="sum")


def beats(number: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    found = torch.randint(TOKENS, (number, 2, ROWS), generator=draw)
    found[:, 1, 2] = -100
    return [(tokens, targets) for tokens, targets in found]


def count(batch: Batch) -> int:
    return int((batch[1] != -100).sum())


def train(
    model: Net, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], ticks: int = 5
) -> list[Tensor]:
    optimizer = make(list(model.parameters()))
    for number, window in enumerate(windows(beats(3 * ticks), 3, count)):
        if number == ticks:
            break
        for batch, weight in window:
            (weight * model(batch)).backward()
            if getattr(getattr(optimizer, "_limits", None), "max_beat_norm", None):
                optimizer.fold()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


MAKERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "ticks": lambda p: Ticks(p, lr=0.1),
    "ticks, carried separately": lambda p: Ticks([{"params": p, "carry": "separate"}], lr=0.1),
    "ticks, clipped": lambda p: Ticks(p, lr=0.1, max_grad_norm=0.1),
    "ticks, clipped beats": lambda p: Ticks(p, lr=0.1, max_beat_norm=0.1),
    "ticks, hold": lambda p: Ticks(p, lr=0.1, on_nonfinite="hold"),
    "ticks, skip": lambda p: Ticks(p, lr=0.1, on_nonfinite="skip"),
    "sign": lambda p: TicksSign(p, lr=0.01),
    "adam": lambda p: TicksAdam(p, lr=0.01),
    "muon": lambda p: TicksMuon([each for each in p if each.ndim == 2], lr=0.01),
    "torch's AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "torch's SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("chunk", [CHUNK, ROWS])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_steps_are_those_of_plain_logits(
    name: str, tied: bool, chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "ticks, skip" or "clipped" in name:
        caplog.set_level(logging.ERROR)  # they say that they keep gradients separate
    found = train(Net(tied=tied, chunk=chunk), MAKERS[name])
    assert not [record for record in caplog.records if "outside of backward" in record.message]
    for one, other in zip(found, train(Net(tied=tied, fast=False), MAKERS[name]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tied", [True, False])
def test_a_beat_counts_though_only_the_head_is_trained(tied: bool) -> None:
    model, plain = Net(tied=tied), Net(tied=tied, fast=False)
    results = []
    for each in (model, plain):
        each.requires_grad_(False)
        each.head.weight.requires_grad_(True)
        optimizer = Ticks([each.head.weight], lr=0.1)
        for batch in beats(4):
            each(batch).backward()
            optimizer.step()
        with pytest.raises(ConfigError, match="at least one beat"):
            optimizer.step()
        results.append(each.head.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_a_beat_of_the_sum_cannot_be_taken_back() -> None:
    model = Net()
    optimizer = Ticks(model.parameters(), lr=0.1)
    batch = beats(1)[0]
    model(batch).backward()
    optimizer.step()
    total = model.head.weight.grad
    model(batch).backward()
    assert model.head.weight.grad is total
    with pytest.raises(ConfigError, match="cannot take back"):
        optimizer.zero_grad()


def test_gradients_set_to_none_between_ticks_begin_anew() -> None:
    results = []
    for fast in (True, False):
        model = Net(fast=fast)
        optimizer = Ticks(model.parameters(), lr=0.1)
        for batch in beats(4):
            model.zero_grad(set_to_none=True)
            model(batch).backward()
            optimizer.step()
        results.append(model.head.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_a_loss_that_is_not_finite_holds_the_parameters() -> None:
    model = Net()
    optimizer = Ticks(model.parameters(), lr=0.1, on_nonfinite="hold")
    tokens, targets = beats(1)[0]
    model((tokens, targets)).backward()
    optimizer.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    (model((tokens, targets)) * torch.nan).backward()
    optimizer.step()
    assert optimizer.held
    for one, other in zip(model.parameters(), before, strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_raises() -> None:
    model = Net()
    optimizer = Ticks(model.parameters(), lr=0.1)
    (model(beats(1)[0]) * torch.inf).backward()
    with pytest.raises(DivergenceError):
        optimizer.step()


@pytest.mark.parametrize("reentrant", [False, True])
def test_beats_in_activation_checkpoints(reentrant: bool) -> None:
    results = []
    for fast in (True, False):
        model = Net(fast=fast)
        optimizer = Ticks(model.parameters(), lr=0.1)
        for batch in beats(6):
            tokens, targets = batch
            x = model.norm(model.dense(model.embedding(tokens)).tanh())

            def head(x: Tensor, targets: Tensor = targets, model: Net = model) -> Tensor:
                if model.fast:
                    return linear_cross_entropy(x, model.head.weight, targets, chunk=CHUNK)
                return nn.functional.cross_entropy(model.head(x), targets, reduction="sum")

            loss = checkpoint(head, x, use_reentrant=reentrant)
            assert isinstance(loss, Tensor)
            loss.backward()
            optimizer.step()
        results.append(model.head.weight.detach())
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


def test_half_precision_weights_have_float32_sums() -> None:
    model = Net().bfloat16()
    optimizer = Ticks(model.parameters(), lr=0.1)
    totals = []
    for batch in beats(3):
        model(batch).backward()
        optimizer.step()
        totals.append(model.head.weight.grad)
    assert all(total is totals[-1] for total in totals)
    assert totals[-1] is not None
    assert totals[-1].dtype == torch.float32
