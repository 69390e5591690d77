from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metronorm.train import TrainConfig
from metronorm.train.averages import Averages

quick = settings(deadline=None, max_examples=20)


def config(ticks: int = 20, ema: float = 0.0, last: float = 0.0) -> TrainConfig:
    return TrainConfig(ticks=ticks, ema=ema, average_last=last, device="cpu")


def weights_at(tick: int) -> torch.Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(tick), dtype=torch.float64)


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3, dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("running", torch.ones(2))


def trained(averages: Averages, net: Net, ticks: range) -> None:
    """Give the net the weights of each tick, and average them."""
    for tick in ticks:
        with torch.no_grad():
            net.weight.copy_(weights_at(tick))
        averages.update(tick)


def made(net: Net, *, until: int, **options: Any) -> Averages:
    averages = Averages(net, config(**options))
    trained(averages, net, range(1, until + 1))
    return averages


def value(averages: Averages, kind: str, net: Net) -> torch.Tensor:
    with averages.in_place(kind):
        return net.weight.detach().clone()


def close(mine: torch.Tensor, ticks: dict[int, float], dtype: torch.dtype = torch.float32) -> None:
    """To the average of these ticks' weights, with these shares, in float64."""
    total = sum(ticks.values())
    expected = sum(share * weights_at(tick).to(dtype).double() for tick, share in ticks.items())
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(mine.double(), expected / total, rtol=tolerance, atol=tolerance)


@quick
@given(decay=st.floats(0.01, 0.999), ticks=st.integers(1, 30))
def test_ema_is_debiased(decay: float, ticks: int) -> None:
    net = Net(torch.float64)
    averages = made(net, until=ticks, ticks=40, ema=decay)
    shares = {tick: decay ** (ticks - tick) for tick in range(1, ticks + 1)}
    close(value(averages, "ema", net), shares, torch.float64)


@pytest.mark.parametrize(
    ("ticks", "share", "first"),
    [(10, 0.1, 10), (100, 0.9, 11), (1000, 0.3, 701), (20, 1.0, 1), (20, 0.001, 20), (7, 0.5, 4)],
)
def test_last_is_the_mean_of_exactly_the_last_part(ticks: int, share: float, first: int) -> None:
    """Also where a share is no binary fraction."""
    net = Net()
    averages = Averages(net, config(ticks, last=share))
    trained(averages, net, range(1, first))
    assert averages.ready(first - 1) == []
    trained(averages, net, range(first, ticks + 1))
    assert averages.ready(first) == ["last"]
    close(value(averages, "last", net), dict.fromkeys(range(first, ticks + 1), 1.0))


def test_only_what_is_trained_is_kept_in_float32_or_better() -> None:
    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        averages = made(Net(dtype), until=3, ema=0.9)
        tensors = averages.tensors()
        assert {name: tensor.dtype for name, tensor in tensors.items()} == {
            "average.ema.weight": kept
        }


def test_an_average_in_bfloat16_does_not_stand_still() -> None:
    net = Net(torch.bfloat16)
    averages = made(net, until=300, ticks=300, ema=0.999)
    shares = {tick: 0.999 ** (300 - tick) for tick in range(1, 301)}
    total = sum(shares.values())
    expected = sum(s * weights_at(t).bfloat16().double() for t, s in shares.items()) / total
    kept = averages.tensors()["average.ema.weight"].double()
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)


def test_in_place_gives_the_weights_back() -> None:
    net = Net()
    averages = made(net, until=20, ema=0.9, last=0.5)
    before = net.weight.detach().clone()
    for kind in averages.ready(20):
        assert not torch.equal(value(averages, kind, net), before)
        assert net.weight.requires_grad
        with pytest.raises(ZeroDivisionError), averages.in_place(kind):
            1 / 0  # noqa: B018
        assert torch.equal(net.weight, before)


@pytest.mark.parametrize("cut", [3, 10, 11, 15])
def test_a_resume_goes_on_exactly(cut: int) -> None:
    options = {"ema": 0.9, "last": 0.5}
    whole = made(Net(), until=20, **options)
    first = made(Net(), until=cut, **options)
    kept = {name: tensor.clone() for name, tensor in first.tensors().items()}
    net = Net()
    resumed = Averages(net, config(**options))
    resumed.load(kept)
    trained(resumed, net, range(cut + 1, 21))
    for name, tensor in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor), name


@pytest.mark.parametrize("ticks", [21, 22, 30, 40, 60])
def test_with_more_ticks_the_average_holds_none_of_before_the_last_part(ticks: int) -> None:
    """It was begun at tick 11 of 20."""
    net = Net()
    first = made(net, until=20, last=0.5)
    longer = Averages(net, config(ticks, last=0.5))
    longer.load(first.tensors())
    trained(longer, net, range(21, ticks + 1))
    first_tick = ticks - round(ticks / 2) + 1
    begin = 11 if first_tick == 11 else max(21, first_tick)
    close(value(longer, "last", net), dict.fromkeys(range(begin, ticks + 1), 1.0))


def test_with_other_averages_than_were_kept() -> None:
    kept = made(Net(), until=5, ema=0.9).tensors()
    with pytest.raises(KeyError):
        Averages(Net(), config(last=0.5)).load(kept)
    Averages(Net(), config()).load(kept)  # it wants none


def test_tied_weights_are_averaged_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    averages = Averages(net, config(ema=0.5))
    averages.update(1)
    assert list(averages.tensors()) == [
        "average.ema.0.weight",
        "average.ema.0.bias",
        "average.ema.1.bias",
    ]
    with averages.in_place("ema"):
        assert net[1].weight is net[0].weight
