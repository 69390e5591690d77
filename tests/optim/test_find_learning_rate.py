"""The range test on losses whose limit of stability is known, and that it leaves no trace.

Run as a script, `RANK STORE`, this is one of two processes that search together.
"""

import copy
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

from metronorm.errors import ConfigError, DataError, DivergenceError, MissingDependencyError
from metronorm.optim import (
    LearningRateSearch,
    Ticks,
    TicksAdam,
    TicksMuon,
    TicksSign,
    Window,
    find_learning_rate,
    windows,
)

ROOT = Path(__file__).parents[2]


# --- where the limit of stability is known -------------------------------------------------------


class Bowl(nn.Module):
    """Curvature 2 in every direction: gradient descent diverges from 1 on."""

    def __init__(self, curvature: float, start: float = 1.0) -> None:
        super().__init__()
        self.curvature = curvature
        self.place = nn.Parameter(torch.full((4,), start, dtype=torch.float64))


def height(model: nn.Module, batch: Tensor) -> Tensor:
    """Summed over the batch, whose values do not matter."""
    return len(batch) * model.curvature / 2 * model.place.square().sum()


def blank(number: int | None = None, micro_batches: int = 1) -> Iterable[Window[Tensor]]:
    batches = itertools.repeat(torch.zeros(3), *([] if number is None else [number]))
    return windows(batches, micro_batches, len)


def grid_step(search: LearningRateSearch) -> float:
    return search.learning_rates[1] / search.learning_rates[0]


@pytest.mark.parametrize("curvature", [0.05, 1.0, 700.0])
@pytest.mark.parametrize("kind", [torch.optim.SGD, Ticks], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("ticks", [40, 100, 300])
def test_descent_of_a_bowl_diverges_from_two_over_its_curvature_on(
    curvature: float, kind: Callable[..., torch.optim.Optimizer], ticks: int
) -> None:
    model = Bowl(curvature)
    optimizer = kind(model.parameters(), lr=0.3, momentum=0.0)
    search = find_learning_rate(
        model,
        optimizer,
        blank(),
        height,
        lowest=1e-5 / curvature,
        highest=1e3 / curvature,
        ticks=ticks,
    )
    limit = 2 / curvature
    assert search.diverged_at is not None
    assert limit <= search.diverged_at < limit * grid_step(search)
    assert search.suggestion is not None
    assert 1e-3 * limit < search.suggestion < 0.5 * limit
    assert search.suggestion == min(search.steepest, search.minimum / 10)
    assert search.minimum <= search.diverged_at
    assert len(search.learning_rates) < ticks  # it ended early
    text = " ".join(search.reasons)
    for rate in (search.suggestion, search.steepest, search.minimum, search.diverged_at):
        assert f"{rate:.1e}" in text


@pytest.mark.parametrize("momentum", [0.5, 0.9])
@pytest.mark.parametrize("kind", [torch.optim.SGD, Ticks], ids=lambda kind: kind.__name__)
def test_a_heavy_ball_holds_out_longer(
    momentum: float, kind: Callable[..., torch.optim.Optimizer]
) -> None:
    model = Bowl(3.0)
    optimizer = kind(model.parameters(), lr=1.0, momentum=momentum)
    search = find_learning_rate(model, optimizer, blank(), height, highest=1e3, ticks=200)
    limit = 2 * (1 + momentum) / 3
    assert limit / 1.5 < search.diverged_at < limit * 1.5
    assert 1e-4 * limit < search.suggestion < 0.5 * limit


def regression(count: int, largest: float) -> tuple[nn.Module, list[Tensor]]:
    """Batches of inputs and noisy targets; the curvature of the mean squared error is `largest`."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([largest, 0.4 * largest, 0.1 * largest, 0.1 * largest]).sqrt()
    batches = []
    for _ in range(count):
        x = torch.randn(16, 4, generator=generator) * scales
        y = x @ (1 / scales) + 0.5 * torch.randn(16, generator=generator)
        batches.append(torch.cat([x, y[:, None]], 1))
    model = nn.Linear(4, 1)
    nn.init.zeros_(model.weight)
    return model, batches


def squared_error(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch[:, :-1])[:, 0] - batch[:, -1]).square().sum() / 2


@pytest.mark.parametrize("largest", [0.3, 40.0])
@pytest.mark.parametrize("kind", [torch.optim.SGD, Ticks], ids=lambda kind: kind.__name__)
def test_a_noisy_model_with_planted_curvature(
    largest: float, kind: Callable[..., torch.optim.Optimizer]
) -> None:
    model, batches = regression(800, largest)
    optimizer = kind(model.parameters(), lr=0.1, momentum=0.0)
    search = find_learning_rate(
        model,
        optimizer,
        windows(batches, 4, len),
        squared_error,
        lowest=1e-5,
        highest=1e2,
        ticks=200,
    )
    limit = 2 / largest
    assert limit / 4 < search.diverged_at < 4 * limit
    assert limit / 1000 < search.suggestion < limit / 4
    optimizer.param_groups[0]["lr"] = search.suggestion
    losses = train(model, optimizer, windows(batches, 4, len), squared_error)
    assert losses[-1] < 0.4 * losses[0]  # and it is good for something


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    source: Iterable[Window[Tensor]],
    loss: Callable[[nn.Module, Tensor], Tensor],
) -> list[float]:
    losses = []
    for window in source:
        optimizer.zero_grad()
        losses.append(0.0)
        for batch, weight in window:
            value = weight * loss(model, batch)
            value.backward()
            losses[-1] += value.item()
            if hasattr(optimizer, "fold") and optimizer._limits.max_beat_norm:
                optimizer.fold()
        optimizer.step()
    return losses


# --- no trace ------------------------------------------------------------------------------------


class Small(nn.Module):
    """A buffer of statistics, random dropout, a frozen parameter, one outside of any optimizer."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6, dtype=dtype), nn.Linear(6, 2, dtype=dtype)
        self.norm, self.drop = nn.BatchNorm1d(6, dtype=dtype), nn.Dropout(0.5)
        self.outside = nn.Parameter(torch.ones(2, dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(6, dtype=dtype), requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("wide", torch.zeros(1).expand(5))  # cannot be written to
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1  # another tensor every time
        hidden = self.drop(self.norm(self.first(x.to(self.frozen.dtype))) * self.frozen)
        return self.last(hidden.relu()) * self.outside

    def inside(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.norm.parameters(), *self.last.parameters()]


def summed(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch).float() - 1).square().sum()


class Unusual(torch.optim.Optimizer):
    """Keeps tensors in lists, counts in attributes and groups, and sees its hooks."""

    def __init__(self, params: Any, lr: Any) -> None:
        self.steps, self.history = 0, [torch.zeros(2)]
        super().__init__(params, {"lr": lr, "seen": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        self.steps += 1
        self.last = self.steps
        self.history.append(torch.ones(2))
        self.history[0] += 1
        for group in self.param_groups:
            group["seen"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    moments = self.state[p].setdefault("moments", [torch.zeros_like(p), {}])
                    moments[0] += p.grad
                    moments[1].setdefault("count", torch.zeros(()))
                    moments[1]["count"] += 1
                    p -= group["lr"] * moments[0]


class Wrapping(torch.optim.Optimizer):
    """As accelerate does it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad()

    def step(self, closure: None = None) -> None:
        self.optimizer.step()


def muon(model: Small, **options: Any) -> TicksMuon:
    matrices = [p for p in model.inside() if p.ndim == 2]
    rest = [p for p in model.inside() if p.ndim < 2]
    group = {"params": rest[:2], "method": "adamw", "lr": 0.003}
    others = {"params": rest[2:], "method": "ticks", "lr": 0.01}
    return TicksMuon([{"params": matrices}, group, others], lr=0.02, **options)


ROSTER: dict[str, Callable[[Small], torch.optim.Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(m.inside(), lr=0.1),
    "SGD, momentum": lambda m: torch.optim.SGD(m.inside(), lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda m: torch.optim.AdamW(
        [{"params": m.inside()[:2]}, {"params": m.inside()[2:], "lr": 0.003}], lr=0.01
    ),
    "AdamW, lr a tensor": lambda m: torch.optim.AdamW(
        m.inside(), lr=torch.tensor(0.01), amsgrad=True, foreach=False
    ),
    "Ticks": lambda m: Ticks(m.inside(), lr=0.1),
    "Ticks, foreach": lambda m: Ticks(m.inside(), lr=0.1, foreach=True, weight_decay=0.1),
    "Ticks, max_grad_norm": lambda m: Ticks(m.inside(), lr=0.1, max_grad_norm=0.5),
    "Ticks, max_beat_norm": lambda m: Ticks(m.inside(), lr=0.1, max_beat_norm=0.5),
    "Ticks, max_update_norm": lambda m: Ticks(m.inside(), lr=0.1, max_update_norm=0.5),
    "Ticks, skip": lambda m: Ticks(m.inside(), lr=0.1, on_nonfinite="skip"),
    "Ticks, stochastic": lambda m: Ticks(m.inside(), lr=0.1, stochastic_rounding=True),
    "TicksAdam": lambda m: TicksAdam(m.inside(), lr=0.01),
    "TicksMuon": muon,
    "TicksMuon, max_grad_norm": lambda m: muon(m, max_grad_norm=0.5),
    "TicksSign": lambda m: TicksSign(m.inside(), lr=0.01),
    "unusual": lambda m: Unusual(m.inside(), lr=0.01),
    "wrapped Ticks": lambda m: Wrapping(Ticks(m.inside(), lr=0.1)),
}

# how far the run has come: whole windows, and whether one beat of the next
PLACES = {"fresh": (0, False), "first window": (0, True), "tick": (2, False), "beat": (2, True)}


def some(count: int, seed: int = 0, rows: int = 4) -> list[Tensor]:
    return list(torch.randn(count, rows, 3, generator=torch.Generator().manual_seed(seed)))


def running(name: str, place: str) -> tuple[Small, torch.optim.Optimizer]:
    torch.manual_seed(5)
    model = Small(torch.bfloat16 if "stochastic" in name else torch.float32)
    optimizer = ROSTER[name](model)
    ticks, beat = PLACES[place]
    train(model, optimizer, windows(some(2 * ticks), 2, len), summed)
    if beat:
        (summed(model, some(1)[0]) / 8).backward()
        if name == "Ticks, max_beat_norm":
            optimizer.fold()
    model.norm.eval()  # some parts are, others are not
    return model, optimizer


def bits(value: Any) -> Any:
    """All there is to a value: of tensors which they are and their bytes."""
    if isinstance(value, Tensor):
        whole = value.detach().clone().reshape(-1).view(torch.uint8)
        return (id(value), value.dtype, value.shape, value.requires_grad, whole.tolist())
    if isinstance(value, dict):
        named = {id(k) if isinstance(k, Tensor) else k: bits(v) for k, v in value.items()}
        return (id(value), list(named), named)
    if isinstance(value, list | tuple):
        return (id(value), [bits(each) for each in value])
    if isinstance(value, torch.optim.Optimizer):
        return bits({k: v for k, v in vars(value).items() if k != "_versions"})[1:]
    return value


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """All that must be as before."""
    parameters = [*model.parameters()]
    inner = getattr(optimizer, "optimizer", optimizer)
    grown = {}
    if isinstance(inner, Ticks | TicksAdam | TicksMuon | TicksSign):
        sums = {p: inner._sum(p) for p in parameters}
        grown = {id(p): inner._grown(p, c) for p, c in sums.items() if c is not None}
    return {
        "parameters": bits(parameters)[1],
        "gradients": [bits(p.grad) for p in parameters],
        "buffers": [bits(module._buffers) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "optimizer": bits(optimizer),
        "groups": bits(inner.param_groups),
        "state": bits(inner.state),
        "grown": grown,
        "random": torch.get_rng_state().tolist(),
    }


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
    model, optimizer = running("SGD", "fresh")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    find_learning_rate(model, optimizer, windows(some(24), 2, len), summed, ticks=12)
    with pytest.warns(UserWarning, match=r"optimizer\.step\(\)"):
        scheduler.step()


def test_takes_no_more_windows_than_ticks() -> None:
    model, optimizer = running("Ticks", "tick")
    source = windows(some(40), 2, len)
    find_learning_rate(model, optimizer, source, summed, ticks=12, highest=1e-3)
    assert source.state_dict()["windows"] == 12


# --- the curve -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.AdamW, Ticks, TicksSign], ids=lambda kind: kind.__name__
)
def test_one_beat_and_four_give_the_same_curve(kind: Callable[..., torch.optim.Optimizer]) -> None:
    curves = []
    for beats in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        pooled = torch.cat([each.double() for each in some(60 * 4, rows=4)])
        batches = list(pooled.split(16 // beats))
        optimizer = kind(model.parameters(), lr=0.1)
        source = windows(batches, beats, len)
        curves.append(
            find_learning_rate(
                model, optimizer, source, lambda m, x: (m(x) - 1).square().sum(), ticks=60
            )
        )
    one, four = curves
    assert one.learning_rates == four.learning_rates
    torch.testing.assert_close(one.losses, four.losses, rtol=1e-9, atol=0)
    torch.testing.assert_close(one.smoothed, four.smoothed, rtol=1e-9, atol=0)
    assert (one.suggestion, one.reasons) == (four.suggestion, four.reasons)


def test_learning_rates_are_evenly_spaced_and_groups_keep_their_ratio() -> None:
    first, second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 5.0}], lr=0.5)
    seen = []
    optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    model = nn.ParameterList([first, second])
    search = find_learning_rate(
        model,
        optimizer,
        blank(),
        lambda m, x: len(x) * (0 * m[0] + 0 * m[1]),
        lowest=1e-3,
        ticks=13,
    )
    expected = [1e-3 * 10 ** (i / 4) for i in range(13)]
    torch.testing.assert_close(search.learning_rates, expected, rtol=1e-12, atol=0)
    assert [rates[0] for rates in seen] == search.learning_rates
    torch.testing.assert_close([b / a for a, b in seen], [10.0] * 13, rtol=1e-12, atol=0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 5.0]


def test_smoothing_is_debiased() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = find_learning_rate(model, optimizer, blank(), height, ticks=100)
    beta = 0.8  # five ticks of 100
    for n in (1, 2, 30, 90):
        weights = [beta ** (n - 1 - i) for i in range(n)]
        mean = sum(w * x for w, x in zip(weights, search.losses, strict=False)) / sum(weights)
        assert search.smoothed[n - 1] == pytest.approx(mean, rel=1e-9)


def test_a_beat_is_clipped_by_itself() -> None:
    """With beats whose gradients are opposite, clipping their sum would do nothing."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(()))])
    optimizer = Ticks(model.parameters(), lr=1.0, momentum=0.0, max_beat_norm=1.0)
    moved = []

    def loss(model: nn.ParameterList, batch: Tensor) -> Tensor:
        moved.append(model[0].item())
        return (batch * model[0]).sum()

    batches = itertools.cycle([torch.tensor([8.0]), torch.tensor([-0.5])])
    source = windows(batches, 2, len)
    find_learning_rate(model, optimizer, source, loss, lowest=0.5, highest=0.6, ticks=10)
    assert moved[2] == pytest.approx(-0.5 * (1 - 0.25))  # 8/2 is cut to 1, -0.5/2 stays


# --- where it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_ends_at_a_loss_that_is_not_finite(bad: float) -> None:
    model = Bowl(1.0)
    calls = itertools.count()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return height(model, batch) + (bad if next(calls) == 30 else 0)

    search = find_learning_rate(model, optimizer, blank(), loss, ticks=60)
    assert len(search.losses) == len(search.learning_rates) == len(search.smoothed) == 30
    assert search.diverged_at == search.learning_rates[-1]  # whose step led there
    assert torch.isfinite(torch.tensor(search.losses)).all()


@pytest.mark.parametrize("options", [{}, {"max_beat_norm": 1.0}])
def test_ends_at_a_gradient_that_is_not_finite(options: dict[str, float]) -> None:
    model = Bowl(1.0)
    calls = itertools.count()
    optimizer = Ticks(model.parameters(), lr=0.1, **options)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        zero = 0 * model.place.sum()
        return height(model, batch) + (zero.sqrt() if next(calls) == 30 else 0)

    before = everything(model, optimizer)
    search = find_learning_rate(model, optimizer, blank(), loss, ticks=60)
    assert len(search.losses) == (30 if options else 31)
    assert search.diverged_at == search.learning_rates[-1]
    assert everything(model, optimizer) == before


def test_a_loss_that_begins_as_nan_is_an_error() -> None:
    model = Bowl(1.0, start=math.nan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(DivergenceError, match="before the first step"):
        find_learning_rate(model, optimizer, blank(), height)


@pytest.mark.parametrize("number", [0, 1, 9])
def test_too_few_windows(number: int) -> None:
    model = Bowl(1.0)
    optimizer = Ticks(model.parameters(), lr=0.1)
    before = everything(model, optimizer)
    with pytest.raises(DataError, match=f"at least 10 windows.*got {number}"):
        find_learning_rate(model, optimizer, blank(number), height)
    assert everything(model, optimizer) == before


def test_windows_that_run_out_are_told() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = find_learning_rate(model, optimizer, blank(85), height, highest=10.0)
    assert len(search.losses) == 85
    assert search.diverged_at is None
    last = f"{search.learning_rates[-1]:.1e}"
    assert f"the windows ran out after 85 of 100 ticks, at {last}" in search.reasons
    assert f"it was still falling at {last}: higher rates may be better" in search.reasons


def test_nothing_is_suggested_where_nothing_fell() -> None:
    model, batches = regression(400, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    source = windows(batches, 4, len)
    search = find_learning_rate(model, optimizer, source, squared_error, lowest=1e-12, highest=1e-9)
    assert search.suggestion is None
    assert search.steepest is None
    assert search.diverged_at is None
    assert len(search.reasons) == 1


def test_nothing_is_suggested_where_it_rises_from_the_first() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    search = find_learning_rate(model, optimizer, blank(), height, lowest=3.0, highest=1e4)
    assert len(search.losses) < 10  # fewer than it takes without divergence
    assert search.suggestion is None
    assert search.diverged_at == search.learning_rates[0]
    assert search.reasons == (
        "the loss is lowest at 3.0e+00, among the first tried",
        "it diverges from 3.0e+00 on",
    )


def test_losses_may_be_negative() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return height(model, batch) - 50 * len(batch)

    search = find_learning_rate(model, optimizer, blank(), loss, highest=1e3)
    assert max(search.losses[:50]) < 0
    assert len(search.losses) > 70
    assert 1e-3 < search.suggestion < 1.0
    assert 2 <= search.diverged_at < 100  # at first too little to be seen beside 50


@pytest.mark.parametrize(
    "bad",
    [
        {"lowest": 0.0},
        {"lowest": -1.0},
        {"lowest": 1.0, "highest": 1.0},
        {"lowest": 2.0, "highest": 1.0},
        {"highest": math.inf},
        {"lowest": math.nan},
        {"highest": math.nan},
        {"ticks": 9},
        {"ticks": 20.0},
        {"ticks": True},
    ],
    ids=str,
)
def test_bad_arguments(bad: dict[str, Any]) -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"must"):
        find_learning_rate(model, optimizer, blank(), height, **bad)


def test_a_first_group_without_learning_rate() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(ConfigError, match=r"ratio to; got 0\.0; try: lr above 0"):
        find_learning_rate(model, optimizer, blank(), height)


# --- the figure ----------------------------------------------------------------------------------


def bowl_search(**options: Any) -> LearningRateSearch:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return find_learning_rate(model, optimizer, blank(), height, highest=1e3, **options)


def test_the_figure_shows_the_numbers() -> None:
    pytest.importorskip("plotly")
    search = bowl_search()
    figure = search.figure()
    raw, smoothed, *marks = figure.data
    assert list(raw.x) == list(smoothed.x) == search.learning_rates
    assert list(raw.y) == search.losses
    assert list(smoothed.y) == search.smoothed
    shown = {mark.name.partition(":")[0]: mark.x[0] for mark in marks}
    assert shown == {
        "suggestion": search.suggestion,
        "steepest": search.steepest,
        "minimum": search.minimum,
        "diverged at": search.diverged_at,
    }
    for mark in marks:
        assert mark.mode == "markers"
        assert f"{mark.x[0]:.1e}" in mark.name
        assert mark.y[0] in search.smoothed
    layout = figure.layout
    assert layout.xaxis.type == "log"
    assert layout.title.text
    assert layout.xaxis.title.text == "learning rate (per tick)"
    assert layout.yaxis.title.text == "loss (per token)"
    low, high = layout.yaxis.range
    assert low < min(search.losses) < search.losses[0] < high < max(search.losses)
    assert '"type":"log"' in figure.to_json()


def test_a_figure_without_a_suggestion() -> None:
    pytest.importorskip("plotly")
    search = bowl_search(lowest=5.0)
    assert search.suggestion is None
    assert {mark.name.partition(":")[0] for mark in search.figure().data[2:]} == {
        "minimum",
        "diverged at",
    }
    flat = LearningRateSearch([1.0], [2.0], [2.0], None, None, 1.0, None, ())
    low, high = flat.figure().layout.yaxis.range
    assert low < 2 < high


def test_a_figure_needs_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    search = bowl_search()
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "plotly.graph_objects", raising=False)
    with pytest.raises(MissingDependencyError, match=r"plotly.*metronorm\[analysis\]"):
        search.figure()


def test_a_search_is_what_it_is() -> None:
    search = bowl_search()
    with pytest.raises(AttributeError):
        search.suggestion = 1.0
    assert copy.deepcopy(search) == search


# --- two processes -------------------------------------------------------------------------------


def searched(how: str, rank: int | None) -> LearningRateSearch:
    """By one process, or by one of two that have every second batch of a window."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    batches = [each.double()[: 1 + number % 4] for number, each in enumerate(some(160))]
    source = windows(batches, 4, len)
    model: nn.Module = inner
    if rank is not None:
        ranks = "sum" if how == "sum" else "mean"
        source = windows(batches[rank::2], 2, len, ranks=ranks)
        if how == "ddp":
            model = nn.parallel.DistributedDataParallel(inner)
        elif how == "fsdp":
            model = fully_shard(inner)
    kind = torch.optim.SGD if how == "sum" else Ticks
    optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
    if rank is not None and how == "sum":
        optimizer.register_step_pre_hook(add_gradients)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) - batch[:, :2].sin()).square().sum()

    def place() -> list[list[float]]:
        return [getattr(p, "_local_tensor", p).tolist() for p in model.parameters()]

    before = place()
    search = find_learning_rate(model, optimizer, source, loss, ticks=40, highest=100.0)
    assert place() == before
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())
    return search


def add_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for parameter in optimizer.param_groups[0]["params"]:
        distributed.all_reduce(parameter.grad)


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", __file__]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=ROOT)
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]


def main(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(store, 2),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    shared = {how: searched(how, rank) for how in ("ddp", "fsdp", "sum")}
    distributed.destroy_process_group()
    for how, search in shared.items():
        alone = searched(how, None)
        torch.testing.assert_close(search.losses, alone.losses, rtol=1e-6, atol=0)
        assert search.reasons == alone.reasons
        assert alone.diverged_at is not None
    assert "plotly" not in sys.modules


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
