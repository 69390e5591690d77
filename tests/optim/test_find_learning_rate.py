"""The range test on losses with a known limit of stability."""

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import ConfigError, DataError, DivergenceError
from metronorm.optim import (
    LearningRateSearch,
    Ticks,
    TicksSign,
    find_learning_rate,
    windows,
)
from tests.optim.searches import (
    Bowl,
    blank,
    everything,
    height,
    regression,
    running,
    some,
    squared_error,
    summed,
    train,
)

SCRIPT = Path(__file__).parent / "search_ranks.py"

# --- where the limit of stability is known -------------------------------------------------------


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
    """The gradients of the beats are opposite, so clipping their sum would do nothing."""
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
    assert search.diverged_at == search.learning_rates[-1]  # the step of this rate led there
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


def test_arrays_in_a_batch_are_tensors_for_the_loss() -> None:
    batch = ({"x": np.ones((4, 3), np.float32)}, [np.zeros((4, 1), np.float32)])

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0]["x"]) - batch[1][0]).square().sum()

    searches = []
    for one in (batch, ({"x": torch.ones(4, 3)}, [torch.zeros(4, 1)])):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        beats = windows([one] * 20, 1, count=lambda batch: 4)
        searches.append(find_learning_rate(model, optimizer, beats, loss, ticks=20))
    assert searches[0].losses == searches[1].losses


def test_a_first_group_without_learning_rate() -> None:
    model = Bowl(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(ConfigError, match=r"ratio to it; got 0\.0; try: lr above 0"):
        find_learning_rate(model, optimizer, blank(), height)


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT)]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")]) for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
