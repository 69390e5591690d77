"""State: a run that was saved anywhere in a window, or copied, goes on bitwise as if it had not."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import CheckpointError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from metronorm.optim.accumulator import Accumulator
from tests.optim import replay
from tests.optim.replay import BF16, FP32, FP64, Parameters, far, history, refused, same

Kind = Callable[[Any], Accumulator]
KINDS: dict[str, Kind] = {
    "ticks": lambda params: Ticks(params, 0.01, weight_decay=0.1),
    "sign": lambda params: TicksSign(params, 0.01),
    "adam": lambda params: TicksAdam(params, 0.01, (0.8, 0.9)),
    "muon ticks": lambda params: TicksMuon(params, 0.01, method="ticks"),
    "muon adamw": lambda params: TicksMuon(params, 0.01, method="adamw"),
    "clipped": lambda params: Ticks(params, 0.01, max_grad_norm=1.2),
    "skipping": lambda params: TicksSign(params, 0.01, on_nonfinite="skip"),
    "bounded": lambda params: Ticks(params, 0.01, max_update_norm=3.0),
    "beats clipped": lambda params: Ticks(params, 0.01, max_beat_norm=0.9),
}
BEATS = [(tick, beat) for tick, beats in enumerate(history(12)) for beat in range(len(beats))]
# in the first window, after it, in others, and at the very end
PLACES = pytest.mark.parametrize("place", [0, 1, 2, 3, 10, len(BEATS) - 1])
EACH = pytest.mark.parametrize("name", KINDS)
STYLES = pytest.mark.parametrize("drop", [False, True], ids=["in place", "dropped"])


def run(
    given: Parameters, optimizer: Accumulator, first: int = 0, last: int = len(BEATS), *, drop: bool
) -> Parameters:
    """Some beats of a training, with the ticks that follow those that end a window."""
    for tick, number in BEATS[first:last]:
        beats = history(12)[tick]
        dtype = given["dense.weight"].dtype
        replay.backward(given, {name: each.to(dtype) for name, each in beats[number].items()})
        if optimizer._limits.max_beat_norm is not None:
            optimizer.fold()
        if number + 1 == len(beats):
            optimizer.step()
            if drop:
                for parameter in given.values():
                    parameter.grad = None
    return given


def alike(got: Parameters, want: Parameters, place: int, *, drop: bool) -> bool:
    """Bitwise; but between windows whose gradients were dropped to rounding.

    What goes on there begins in place, and so adds its first window up in another order.
    """
    between = place > 0 and BEATS[place][1] == 0
    return far(got, want) < 1e-14 if drop and between else same(got, want)


def through_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@PLACES
@EACH
@STYLES
def test_a_run_goes_on_where_it_was_saved(name: str, drop: bool, place: int) -> None:
    given = replay.parameters()
    optimizer = KINDS[name](given.values())
    run(given, optimizer, 0, place, drop=drop)
    saved = through_file([optimizer.state_dict(), dict(given)])
    run(given, optimizer, place, drop=drop)
    other = {name: nn.Parameter(each) for name, each in saved[1].items()}
    again = KINDS[name](other.values())
    for group in again.param_groups:
        group["lr"] = 77.0  # all hyper-parameters come with the state
        group["betas"] = (0.1, 0.2) if "betas" in group else None
    again.load_state_dict(saved[0])
    assert alike(run(other, again, place, drop=drop), given, place, drop=drop)


@PLACES
def test_matrices_go_on_too(place: int) -> None:
    results = []
    for stop in (None, place):
        given = {name: p for name, p in replay.parameters(FP32).items() if p.ndim == 2}
        recorded = [
            [{n: g for n, g in beat.items() if n in given} for beat in beats]
            for beats in history(12, FP32)
        ]
        optimizer = TicksMuon(given.values())
        for index, (tick, number) in enumerate(BEATS):
            if index == stop:
                state = through_file(optimizer.state_dict())
                given = {name: nn.Parameter(each.detach()) for name, each in given.items()}
                optimizer = TicksMuon(given.values(), 5.0)
                optimizer.load_state_dict(state)
            replay.backward(given, recorded[tick][number])
            if number + 1 == len(recorded[tick]):
                optimizer.step()
        results.append(given)
    assert same(*results)


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@PLACES
@EACH
@STYLES
@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(copied: Any, name: str, drop: bool, place: int) -> None:
    """And the original does, untouched by what its copies do."""
    given, want = replay.parameters(), replay.parameters()
    run(want, KINDS[name](want.values()), drop=drop)
    optimizer = KINDS[name](given.values())
    run(given, optimizer, 0, place, drop=drop)
    other, again = copied((given, optimizer))
    assert alike(run(other, again, place, drop=drop), want, place, drop=drop)
    assert same(run(given, optimizer, place, drop=drop), want)


@pytest.mark.parametrize("name", ["ticks", "adam", "clipped"])
@pytest.mark.parametrize("place", [1, 2, 10])
def test_half_precision_goes_on_too(name: str, place: int) -> None:
    given = replay.parameters(BF16)
    optimizer = KINDS[name](given.values())
    run(given, optimizer, 0, place, drop=False)
    other, again = copy.deepcopy((given, optimizer))
    third = {name: nn.Parameter(each.detach().clone()) for name, each in given.items()}
    loaded = KINDS[name](third.values())
    loaded.load_state_dict(through_file(optimizer.state_dict()))
    run(given, optimizer, place, drop=False)
    assert same(run(other, again, place, drop=False), given)
    assert same(run(third, loaded, place, drop=False), given)
    held = [v for each in loaded.state.values() for v in each.values() if isinstance(v, Tensor)]
    assert {each.dtype for each in held} == {FP32}


def test_counters_and_limits_are_copied() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Ticks([parameter], 0.1, max_grad_norm=0.5, on_nonfinite="skip")
    for factor in (torch.nan, 1.0):
        (factor * parameter).sum().backward()
        optimizer.step()
    for copied in (copy.deepcopy, by_pickle):
        _, other = copied((parameter, optimizer))
        assert other.skipped == 1
        assert other.gradient_norm == optimizer.gradient_norm == pytest.approx(2**0.5)
        assert other._limits == optimizer._limits


# What is in it -----------------------------------------------------------------------------------


def test_what_the_state_holds() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Ticks([parameter], 0.1, 0.5)
    assert optimizer.state_dict()["state"] == {}
    parameter.sum().backward()
    (first,) = optimizer.state_dict()["state"].values()
    assert set(first) == {"window"}
    optimizer.step()
    (between,) = optimizer.state_dict()["state"].values()
    assert between["accumulated"].tolist() == [0.5, 0.5]
    assert (between["momentum"], between["open"]) == (0.5, False)
    parameter.sum().backward()
    (inside,) = optimizer.state_dict()["state"].values()
    assert inside["accumulated"].tolist() == [1.5, 1.5]
    assert inside["open"] is True
    assert "window" not in inside


def test_loaded_tensors_are_copies() -> None:
    parameter, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer, again = Ticks([parameter], 0.1), Ticks([other], 0.1)
    parameter.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    again.load_state_dict(state)
    (2 * other).sum().backward()
    again.step()
    assert state["state"][0]["accumulated"].tolist() == pytest.approx([0.9, 0.9])


@EACH
def test_the_state_of_a_beginning_begins_anew(name: str) -> None:
    """Sums and unfinished windows are dropped."""
    given, want = replay.parameters(), replay.parameters()
    optimizer = KINDS[name](given.values())
    beginning = copy.deepcopy(optimizer.state_dict())
    for last in (1, 5, 10):
        run(given, optimizer, 0, last, drop=False)
        optimizer.load_state_dict(beginning)
        assert all(parameter.grad is None for parameter in given.values())
        assert optimizer.state_dict() == beginning
    for each, start in zip(given.values(), want.values(), strict=True):
        each.data.copy_(start)
    run(want, KINDS[name](want.values()), drop=False)
    assert same(run(given, optimizer, drop=False), want)


@pytest.mark.parametrize("place", [3, 9])
def test_a_limit_can_begin_or_end_at_a_tick(place: int) -> None:
    """The state of an optimizer that keeps windows separate fits one that does not, and back."""
    want = replay.parameters()
    run(want, Ticks(want.values(), 0.01), drop=False)
    for before, after in ((1e9, None), (None, 1e9)):
        given = replay.parameters()
        first = Ticks(given.values(), 0.01, max_grad_norm=before)
        run(given, first, 0, place, drop=False)
        second = Ticks(given.values(), 0.01, max_grad_norm=after)
        second.load_state_dict(first.state_dict())
        run(given, second, place, drop=False)
        assert far(given, want) < 1e-14


# States that do not fit --------------------------------------------------------------------------


def unfit(optimizer: Accumulator) -> dict[str, tuple[dict[str, Any], str]]:
    """Broken versions of an optimizer's state, with a part of the error for each."""
    state = copy.deepcopy(optimizer.state_dict())
    groups, per = state["param_groups"], state["state"]
    other = nn.Parameter(torch.ones(2, dtype=FP64))
    sgd = torch.optim.SGD([nn.Parameter(torch.ones(2)) for _ in range(8)], 0.1)
    sign = TicksSign([nn.Parameter(torch.ones(2)) for _ in range(8)], 0.1)
    shape = {**per, 2: {**per[2], "accumulated": other.detach()}}
    return {
        "nothing": ({}, "must hold state and param_groups"),
        "no groups": ({"state": per}, "must hold state and param_groups"),
        "no state": ({"param_groups": groups}, "must hold state and param_groups"),
        "sgd": (sgd.state_dict(), "takes the state of Ticks; got of another optimizer"),
        "sign": (sign.state_dict(), "takes the state of Ticks; got TicksSign"),
        "fewer": ({**state, "param_groups": [{**groups[0], "params": [0]}]}, "groups of [8]"),
        "more groups": ({**state, "param_groups": groups * 2}, "got [8, 8]"),
        "by name": ({**state, "state": {"dense.weight": per[0]}}, "dense.weight"),
        "beyond": ({**state, "state": {8: per[0]}}, "got 8"),
        "negative": ({**state, "state": {-1: per[0]}}, "got -1"),
        "foreign": ({**state, "state": {0: {"exp_avg": per[0]["accumulated"]}}}, "got exp_avg"),
        "shape": ({**state, "state": shape}, "parameter 2 has shape (4,); got accumulated of"),
    }


UNFIT = ["nothing", "no groups", "no state", "sgd", "sign", "fewer", "more groups"]
UNFIT += ["by name", "beyond", "negative", "foreign", "shape"]


@pytest.mark.parametrize("what", UNFIT)
def test_states_that_do_not_fit_change_nothing(what: str) -> None:
    given, want = replay.parameters(), replay.parameters()
    run(want, KINDS["ticks"](want.values()), drop=False)
    optimizer = KINDS["ticks"](given.values())
    run(given, optimizer, 0, 10, drop=False)
    state, expected = unfit(optimizer)[what]
    before = copy.deepcopy(optimizer.state_dict()), [id(each.grad) for each in given.values()]
    refused(CheckpointError, lambda: optimizer.load_state_dict(state), expected)
    assert optimizer.state_dict()["param_groups"] == before[0]["param_groups"]
    assert [id(each.grad) for each in given.values()] == before[1]
    assert same(run(given, optimizer, 10, drop=False), want)
