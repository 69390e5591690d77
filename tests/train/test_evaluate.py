from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metronorm.errors import ConfigError, DataError
from metronorm.train.evaluate import evaluate, evaluating


def sums(batch: torch.Tensor) -> dict[str, Any]:
    """Of numbers: their sum, that of the positive ones by their number, and a Python number."""
    positive = batch[batch > 0]
    return {
        "value": batch.sum(),
        "positive": (positive.sum(), (batch > 0).sum()),
        "half": len(batch) / 2,
    }


@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=9), min_size=1, max_size=6))
def test_measures_are_those_of_all_examples_at_once(parts: list[list[int]]) -> None:
    parts[0].append(1)
    numbers = [number for part in parts for number in part]
    batches = [torch.tensor(part, dtype=torch.float32) for part in parts]
    found = evaluate(nn.Identity(), batches, sums, len)
    positive = [number for number in numbers if number > 0]
    assert found["value"] == pytest.approx(sum(numbers) / len(numbers))
    assert found["positive"] == pytest.approx(sum(positive) / len(positive))
    assert found["half"] == 0.5


def test_sums_lose_nothing_however_many_there_are() -> None:
    """In float32 a batch would add nothing to a sum of 2**25."""
    batches = [torch.tensor([2.0**25])] + [torch.ones(1)] * 1000
    found = evaluate(nn.Identity(), batches, lambda batch: {"all": batch.sum()}, len)
    assert found["all"] == (2**25 + 1000) / 1001
    small = [torch.ones(1000, dtype=torch.float16)] * 100  # more than float16 can count
    counted = evaluate(nn.Identity(), small, lambda batch: {"one": (batch.sum(), batch.sum())}, len)
    assert counted["one"] == 1.0


def test_every_module_gets_the_mode_back_that_it_had() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.BatchNorm1d(1), nn.Dropout()))
    net.train()
    net[1][0].eval()  # frozen statistics
    before = [module.training for module in net.modules()]
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    with pytest.raises(ZeroDivisionError), evaluating(net):
        1 / 0  # noqa: B018
    assert [module.training for module in net.modules()] == before


def test_nothing_of_the_model_changes() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    batches = [torch.ones(4, 2), torch.zeros(1, 2)]
    first, again = (evaluate(net, batches, lambda x: {"y": net(x).sum()}, len) for _ in range(2))
    assert first == again
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_what_is_not_finite_is_told() -> None:
    found = evaluate(
        nn.Identity(), [torch.tensor([float("inf")])], lambda x: {"loss": x.sum()}, len
    )
    assert found["loss"] == float("inf")


@pytest.mark.parametrize(
    ("batches", "measure", "kind", "says"),
    [
        ([], sums, DataError, "got no batches; try: more data"),
        ([torch.zeros(0)] * 3, sums, DataError, "a count of 0 for value, positive, half in 3"),
        ([-torch.ones(2)], sums, DataError, "a count of 0 for positive in 1 batches"),
        ([torch.ones(2)], lambda batch: {}, DataError, "no measure of 1 batches"),
        ([torch.ones(2)], lambda batch: {"f": batch}, ConfigError, r"f of shape \(2,\); try: .sum"),
        ([torch.ones(2)], lambda batch: {"f": None}, ConfigError, "f is a NoneType"),
        ([torch.ones(2)], lambda batch: {"f": (1.0, "x")}, ConfigError, "f is a str"),
    ],
)
def test_an_evaluation_of_nothing(
    batches: list[Any], measure: Callable[[Any], Any], kind: type[Exception], says: str
) -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(kind, match=says):
        evaluate(net, batches, measure, len)
    assert net.training
