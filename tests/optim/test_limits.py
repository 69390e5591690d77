"""Limits of a window's, a beat's and an update's norm, and windows that are not finite."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from tests.optim import replay
from tests.optim.replay import FP64, ROUNDING, Parameters, Windows, far, history, refused, same

NORM = 1.2  # of windows in the history about a half are larger, of beats a quarter


def clipped_sgd(recorded: Windows, norm: float, **options: Any) -> tuple[Parameters, list[float]]:
    """SGD after clip_grad_norm_ of the whole window; and the norms before."""
    given, norms = replay.parameters(), []
    sgd = SGD(given.values(), 0.01, 0.9, **options)
    for beats in recorded:
        for beat in beats:
            replay.backward(given, beat)
        norms.append(float(clip_grad_norm_(given.values(), norm)))
        sgd.step()
        sgd.zero_grad()
    return given, norms


# The gradient of a window ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}])
def test_a_windows_gradient_is_clipped_as_by_torch(options: dict[str, Any]) -> None:
    given, norms = replay.parameters(), []
    optimizer = Ticks(given.values(), 0.01, max_grad_norm=NORM, **options)
    replay.replay(
        optimizer, given, history(100), after=lambda: norms.append(optimizer.gradient_norm)
    )
    want, theirs = clipped_sgd(history(100), NORM, **options)
    assert norms == pytest.approx(theirs, rel=1e-14)
    assert 20 < sum(norm > NORM for norm in norms) < 80
    # torch divides by the norm + 1e-6, so that what it clips is that much shorter
    assert far(given, want) < 1e-5
    assert far(want, replay.parameters()) > 0.01


def test_a_limit_that_is_never_reached_changes_nothing() -> None:
    given, other = replay.parameters(), replay.parameters()
    optimizer = Ticks(given.values(), 0.01, max_grad_norm=math.inf, foreach=False)
    replay.replay(optimizer, given, history(30))
    replay.replay_torch(SGD(other.values(), 0.01, 0.9), other, history(30))
    assert same(given, other)


def test_what_is_clipped_has_exactly_the_norm() -> None:
    parameters = [nn.Parameter(torch.zeros(3, dtype=FP64)) for _ in range(2)]
    optimizer = Ticks(parameters, 1.0, 0.5, max_grad_norm=2.0)
    for _ in range(3):
        torch.autograd.backward(parameters, [torch.full((3,), 1e3, dtype=FP64)] * 2)
        optimizer.step()
    # sums of three gradients of norm 2: 2, 3 and 3.5, each halved after its tick
    sums = torch.cat([optimizer.state[each]["accumulated"] for each in parameters])
    assert float(sums.norm()) == pytest.approx(3.5 / 2, rel=1e-14)
    assert float(torch.cat([each.detach() for each in parameters]).norm()) == pytest.approx(8.5)
    assert optimizer.gradient_norm == pytest.approx(1e3 * 6**0.5)


@pytest.mark.parametrize("kind", [TicksSign, TicksMuon])
def test_other_kinds_clip_the_same(kind: Any) -> None:
    options = {"method": "ticks"} if kind is TicksMuon else {}
    given, other = replay.parameters(), replay.parameters()
    replay.replay(kind(given.values(), 0.01, max_grad_norm=NORM, **options), given, history(30))
    plain = kind(other.values(), 0.01, **options)
    for beats in history(30):
        for beat in beats:
            replay.backward(other, beat)
        norm = float(
            torch.nn.utils.get_total_norm([p.grad for p in other.values() if p.grad is not None])
        )
        for parameter in other.values():
            if parameter.grad is not None and norm > NORM:
                parameter.grad *= NORM / norm
        plain.step()
        for parameter in other.values():
            parameter.grad = None
    assert far(given, other) < 20 * ROUNDING[FP64]


def test_the_norm_is_of_all_groups() -> None:
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [matrix]}, {"params": [vector], "method": "adamw"}]
    optimizer = TicksMuon(groups, max_grad_norm=1.0)
    (3 * matrix[0, 0] + 4 * vector[0]).backward()
    optimizer.step()
    assert optimizer.gradient_norm == 5.0
    assert optimizer.state[vector]["exp_avg"][0] == pytest.approx(0.1 * 4 / 5)


def test_skipping_and_clipping_go_together() -> None:
    given = replay.parameters()
    optimizer = Ticks(given.values(), 0.01, on_nonfinite="skip", max_grad_norm=NORM)
    recorded = list(history(20))
    recorded[3] = [{name: gradient * math.nan for name, gradient in recorded[3][0].items()}]
    replay.replay(optimizer, given, recorded)
    want, _ = clipped_sgd([*history(20)[:3], *history(20)[4:]], NORM)
    assert far(given, want) < 1e-5
    assert optimizer.skipped == 1


# The gradient of a beat --------------------------------------------------------------------------


def test_beats_are_clipped_one_by_one() -> None:
    given, other = replay.parameters(), replay.parameters()
    optimizer = Ticks(given.values(), 0.01, max_beat_norm=NORM)
    for beats in history(60):
        for number, beat in enumerate(beats):
            replay.backward(given, beat)
            if number + 1 < len(beats):  # step() folds the last
                optimizer.fold()
        optimizer.step()
    sgd = SGD(other.values(), 0.01, 0.9)
    for beats in history(60):
        total: dict[str, Tensor] = {}
        for beat in beats:
            norm = float(torch.nn.utils.get_total_norm(list(beat.values())))
            for name, gradient in beat.items():
                clipped = gradient * min(1.0, NORM / norm)
                total[name] = total[name] + clipped if name in total else clipped
        replay.backward(other, total)
        sgd.step()
        sgd.zero_grad()
    assert far(given, other) < 20 * ROUNDING[FP64]
    assert far(given, clipped_sgd(history(60), NORM)[0]) > 0.01


def test_folding_the_last_beat_as_well_changes_nothing() -> None:
    results = []
    for last in (False, True):
        given = replay.parameters()
        optimizer = Ticks(given.values(), 0.01, max_beat_norm=NORM)
        for beats in history(30):
            for number, beat in enumerate(beats):
                replay.backward(given, beat)
                if last or number + 1 < len(beats):
                    optimizer.fold()
                    assert all(parameter.grad is None for parameter in given.values())
            optimizer.zero_grad()
            if not last:
                replay.backward(given, beats[-1])
            optimizer.step()
        results.append(given)
    assert same(*results)


def test_folding_without_a_beat_is_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Ticks([parameter], 0.1, max_beat_norm=1.0)
    optimizer.fold()
    refused(ConfigError, optimizer.step, "at least one beat")
    parameter.sum().backward()
    optimizer.fold()
    optimizer.fold()
    optimizer.step()
    assert float((1 - parameter.detach()).norm()) == pytest.approx(0.1)


def test_fold_is_for_max_beat_norm() -> None:
    for optimizer in (
        Ticks([nn.Parameter(torch.ones(2))], 0.1),
        TicksAdam([nn.Parameter(torch.ones(2))]),
    ):
        refused(ConfigError, optimizer.fold, "clipped one by one", "no max_beat_norm")


# The update --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scaling", "largest"), [("sum", 4.0), ("mean", 0.4), ("amplified", 40.0)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_update_is_bounded_and_the_sum_does_not_change(
    scaling: Any, largest: float, decay: float
) -> None:
    """Tick by tick, beside an optimizer without the limit that goes on from the same state."""
    given, other = replay.parameters(), replay.parameters()
    lr, options = 1e-3, {"scaling": scaling, "weight_decay": decay, "foreach": False}
    bounded = Ticks(given.values(), lr, max_update_norm=largest, **options)
    plain = Ticks(other.values(), lr, **options)
    moves = []
    for beats in history(50):
        before = flat(given)
        for name, parameter in other.items():
            parameter.data.copy_(given[name])
        plain.load_state_dict(bounded.state_dict())
        for optimizer, parameters in ((bounded, given), (plain, other)):
            replay.replay(optimizer, parameters, [beats])
        moved, unbounded = flat(given) - before, flat(other) - before
        moves.append(float(unbounded.norm()) / lr)
        want = unbounded * min(1, largest / moves[-1])
        torch.testing.assert_close(moved, want, rtol=1e-10, atol=1e-15)
        sums = {name: bounded.state[given[name]]["accumulated"] for name in beats[0]}
        assert same(sums, {name: plain.state[other[name]]["accumulated"] for name in sums})
    assert 10 < sum(norm > largest for norm in moves) < 45


def flat(given: Parameters) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in given.values()])


def test_bounding_the_update_takes_no_memory() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Ticks([parameter], 0.1, max_update_norm=0.1)
    for _ in range(3):
        (parameter**2).sum().backward()
        optimizer.step()
        assert parameter.grad is optimizer.state[parameter]["accumulated"]
    assert optimizer.gradient_norm is None


# Bad limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_grad_norm", "max_beat_norm", "max_update_norm"])
@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, "1"])
def test_norms_are_above_zero(name: str, wrong: Any) -> None:
    parameter = nn.Parameter(torch.ones(2))
    options = {name: wrong}
    refused(ConfigError, lambda: Ticks([parameter], 0.1, **options), f"{name} must be", repr(wrong))


@pytest.mark.parametrize("wrong", ["drop", "", True, False])
def test_what_to_do_is_known(wrong: Any) -> None:
    parameter = nn.Parameter(torch.ones(2))
    refused(
        ConfigError, lambda: Ticks([parameter], 0.1, on_nonfinite=wrong), "on_nonfinite must be"
    )


@pytest.mark.parametrize("options", [{"max_grad_norm": 1.0}, {"on_nonfinite": "skip"}])
def test_limits_that_exclude_each_other(options: dict[str, Any]) -> None:
    def make() -> Ticks:
        return Ticks([nn.Parameter(torch.ones(2))], 0.1, max_beat_norm=1.0, **options)

    refused(ConfigError, make, "max_beat_norm folds every beat", "nothing can clip or drop")


@pytest.mark.parametrize("limits", [{"max_grad_norm": 1.0}, {"on_nonfinite": "skip"}])
def test_limits_cannot_begin_inside_a_window(limits: dict[str, Any]) -> None:
    given, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    plain, limited = Ticks([given], 0.1), Ticks([other], 0.1, **limits)
    given.sum().backward()
    plain.step()
    given.sum().backward()
    limited.load_state_dict(plain.state_dict())
    other.sum().backward()
    before = other.detach().clone()
    refused(ConfigError, limited.step, "separate from the sum", "at a tick")
    assert torch.equal(other, before)
