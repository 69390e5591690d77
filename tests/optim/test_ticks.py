"""Ticks against its equations and against torch.optim.SGD, step by step."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from metronorm.optim import Ticks, reference
from tests.optim import replay
from tests.optim.replay import FP32, FP64, ROUNDING, TICKS, Net, far, history, one_beat, same

LIKE_SGD: list[dict[str, Any]] = [
    {},
    {"momentum": 0.0, "maximize": True},
    {"weight_decay": 0.05},
    {"momentum": 0.5, "weight_decay": 0.05, "maximize": True},
    {"momentum": 0.5, "weight_decay": 0.05},
    {"momentum": 0.51, "weight_decay": 0.05},
    {"momentum": 0.99, "weight_decay": 0.01},
]
OTHERS: list[dict[str, Any]] = [
    {"scaling": "amplified", "lr": 1e-4, "weight_decay": 0.05},
    {"weight_decay": 0.05, "decoupled": True},
    {"weight_decay": 0.05, "decoupled": True, "maximize": True, "scaling": "mean"},
]


def name_of(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items()) or "plain"


@pytest.mark.parametrize("dtype", [FP64, FP32])
@pytest.mark.parametrize("options", [*LIKE_SGD, *OTHERS], ids=name_of)
def test_a_thousand_ticks_are_those_of_the_equations(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    given, windows = replay.parameters(dtype), history(TICKS, dtype)
    options = {"lr": 0.01, **options}
    want = replay.reference(reference.ticks, given, windows, **options)
    replay.replay(Ticks(given.values(), **options), given, windows)
    # the factor of decoupled decay is rounded once, the same way at every tick
    roundings = TICKS if options.get("decoupled") else 50
    assert far(given, want) < roundings * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [FP64, FP32])
@pytest.mark.parametrize("options", LIKE_SGD, ids=name_of)
@pytest.mark.parametrize("foreach", [None, False])
def test_with_one_beat_per_window_it_is_sgd(
    foreach: bool | None, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """Bitwise where it is done as SGD does it, but for decay, which is added to the sum here."""
    given, other = replay.parameters(dtype), replay.parameters(dtype)
    windows = one_beat(history(300 if options else TICKS, dtype))
    options = {"momentum": 0.9, **options}
    replay.replay(Ticks(given.values(), 0.01, **options, foreach=foreach), given, windows)
    replay.replay_torch(torch.optim.SGD(other.values(), 0.01, **options), other, windows)
    if foreach is None or options.get("weight_decay"):
        assert far(given, other) < 50 * ROUNDING[dtype]
    else:
        assert same(given, other)


@pytest.mark.parametrize("dtype", [FP64, FP32])
def test_with_many_beats_per_window_it_is_sgd_on_their_sum(dtype: torch.dtype) -> None:
    given, other = replay.parameters(dtype), replay.parameters(dtype)
    options, windows = {"momentum": 0.9, "weight_decay": 0.01}, history(300, dtype)
    replay.replay(Ticks(given.values(), 0.01, **options), given, windows)
    replay.replay_torch(torch.optim.SGD(other.values(), 0.01, **options), other, windows)
    assert far(given, other) < 50 * ROUNDING[dtype]


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_the_mean_is_sgd_at_a_lower_rate(momentum: float) -> None:
    given, other = replay.parameters(), replay.parameters()
    replay.replay(Ticks(given.values(), 0.1, momentum, scaling="mean"), given, history(300))
    sgd = torch.optim.SGD(other.values(), 0.1 * (1 - momentum), momentum)
    replay.replay_torch(sgd, other, history(300))
    assert far(given, other) < 50 * ROUNDING[FP64]


@pytest.mark.parametrize("dtype", [FP64, FP32])
def test_training_with_gradients_of_its_own_is_that_of_sgd(dtype: torch.dtype) -> None:
    given, other = Net(dtype), Net(dtype)
    options = {"lr": 0.02, "momentum": 0.9}
    ours = Ticks(given.parameters(), **options, foreach=False)
    sgd = torch.optim.SGD(other.parameters(), **options)
    for tick in range(100):
        batch = replay.draw_batch(5, tick)
        for model, optimizer in ((given, ours), (other, sgd)):
            replay.summed_loss(model, batch, more=tick % 3 == 0).backward()
            optimizer.step()
        sgd.zero_grad()
    start = dict(Net(dtype).named_parameters())
    got, want = dict(given.named_parameters()), dict(other.named_parameters())
    assert same(got, want)
    moved = {name for name in start if not torch.equal(start[name], got[name])}
    assert moved == {name for name in start if not name.startswith("frozen")}


def test_a_parameter_without_a_gradient_does_not_change() -> None:
    """It does not move or decay, and its sum does not change: as in SGD."""
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = Ticks([used, unused], 0.1, weight_decay=0.1)
    (used.sum() + unused.sum()).backward()
    optimizer.step()
    before, total = unused.detach().clone(), optimizer.state[unused]["accumulated"].clone()
    for _ in range(3):
        used.sum().backward()
        optimizer.step()
        assert torch.equal(unused, before)
        assert torch.equal(optimizer.state[unused]["accumulated"], total)
    unused.sum().backward()
    optimizer.step()
    assert not torch.equal(unused, before)


@pytest.mark.parametrize("options", [*LIKE_SGD, *OTHERS], ids=name_of)
@pytest.mark.parametrize("dtype", [FP64, FP32])
def test_however_it_is_swept_the_update_is_the_same(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    results = []
    for foreach in (None, False, True):
        given = replay.parameters(dtype)
        optimizer = Ticks(given.values(), **{"lr": 0.01, **options}, foreach=foreach)
        replay.replay(optimizer, given, history(20, dtype))
        results.append(given)
    assert far(results[0], results[1]) < 50 * ROUNDING[dtype]
    assert same(results[1], results[2])


@pytest.mark.parametrize(("scaling", "factor"), [("sum", 10), ("mean", 1), ("amplified", 100)])
def test_steady_state(scaling: Any, factor: float) -> None:
    """What a constant gradient of one moves a parameter by, in the end."""
    parameter = nn.Parameter(torch.zeros((), dtype=FP64))
    optimizer = Ticks([parameter], 1.0, 0.9, scaling=scaling)
    for _ in range(400):
        before = parameter.item()
        parameter.backward()
        optimizer.step()
    assert before - parameter.item() == pytest.approx(factor, rel=1e-9)


def test_decoupled_decay_shrinks_without_a_gradient() -> None:
    parameter = nn.Parameter(torch.full((3,), 2.0, dtype=FP64))
    optimizer = Ticks([parameter], 0.5, weight_decay=0.1, decoupled=True)
    for _ in range(5):
        (0 * parameter).sum().backward()
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 2 * 0.95**5, dtype=FP64))
    assert not optimizer.state[parameter]["accumulated"].any()


def test_groups_have_their_own_hyper_parameters() -> None:
    options = [
        {"lr": 0.1, "momentum": 0.5},
        {"lr": 0.01, "weight_decay": 0.1, "scaling": "mean"},
        {"lr": 0.02, "maximize": True, "foreach": True},
    ]
    together = [nn.Parameter(torch.ones(2, dtype=FP64)) for _ in options]
    separate = [nn.Parameter(torch.ones(2, dtype=FP64)) for _ in options]
    groups = [{"params": [p], **each} for p, each in zip(together, options, strict=True)]
    one = Ticks(groups[:-1], lr=math.pi)
    one.add_param_group(groups[-1])
    several = [Ticks([p], **each) for p, each in zip(separate, options, strict=True)]
    for _ in range(5):
        sum((p**3).sum() for p in (*together, *separate)).backward()
        for optimizer in (one, *several):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(together, separate, strict=True))


def test_names_and_single_parameters_in_groups() -> None:
    model = nn.Linear(2, 2)
    named = Ticks(model.named_parameters(), 0.1)
    assert named.param_groups[0]["param_names"] == ["weight", "bias"]
    assert named.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    single = Ticks([{"params": model.weight}], 0.1)
    assert single.param_groups[0]["params"] == [model.weight]
