"""Every mistake is one clear error, and leaves parameters and sums as they were."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign, windows
from metronorm.optim.accumulator import Accumulator
from tests.optim.replay import refused

KINDS: dict[Any, dict[str, Any]] = {
    Ticks: {"lr": 0.1},
    TicksSign: {"lr": 0.1},
    TicksAdam: {"lr": 0.1},
    TicksMuon: {"lr": 0.1, "method": "ticks"},
}
EACH = pytest.mark.parametrize("kind", KINDS)
NO_NUMBERS = [-0.1, -1, math.nan, math.inf, -math.inf, None, "0.1", True, 1j, torch.ones(2)]


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape, dtype=dtype), requires_grad=dtype.is_floating_point)


def make(kind: Any, params: Any, **options: Any) -> Accumulator:
    optimizer: Accumulator = kind(params, **{**KINDS[kind], **options})
    return optimizer


# Parameters --------------------------------------------------------------------------------------


@EACH
def test_one_tensor_is_no_list_of_parameters(kind: Any) -> None:
    refused(ConfigError, lambda: make(kind, ones(2)), "must be an iterable", "one tensor")


@EACH
@pytest.mark.parametrize("params", [[], (), iter([])], ids=["list", "tuple", "iterator"])
def test_nothing_to_optimize(kind: Any, params: Any) -> None:
    refused(ConfigError, lambda: make(kind, params), "at least one parameter", "none")


@EACH
@pytest.mark.parametrize(
    "params", [None, 3, nn.Linear(2, 2), {ones(2)}], ids=lambda p: type(p).__name__
)
def test_what_has_no_order(kind: Any, params: Any) -> None:
    refused(ConfigError, lambda: make(kind, params), "in a fixed order", type(params).__name__)
    if not isinstance(params, nn.Module):
        refused(ConfigError, lambda: make(kind, [{"params": params}]), "in a fixed order")


@EACH
@pytest.mark.parametrize("wrong", [[ones(2)], None, 1.0, "weight", ()], ids=repr)
def test_what_is_no_parameter(kind: Any, wrong: Any) -> None:
    refused(ConfigError, lambda: make(kind, [wrong]), "tensors that are leaves")


@EACH
def test_what_is_no_leaf(kind: Any) -> None:
    refused(ConfigError, lambda: make(kind, [2 * ones(2)]), "tensors that are leaves", "Tensor")


@EACH
def test_parameters_twice(kind: Any) -> None:
    one, other = ones(2), ones(3)
    twice = "one of shape (2,) a second time"
    refused(ConfigError, lambda: make(kind, [one, other, one]), "one group only, once", twice)
    groups = [{"params": [one]}, {"params": [other, one]}]
    refused(ConfigError, lambda: make(kind, groups), "one group only, once", twice)
    optimizer = make(kind, [one])
    refused(ConfigError, lambda: optimizer.add_param_group({"params": one}), "once", twice)
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["params"] == [one]


@EACH
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_numbers_that_are_not_real(kind: Any, dtype: torch.dtype) -> None:
    wrong = ones(2, dtype=dtype)
    refused(ConfigError, lambda: make(kind, [wrong]), "floating point or complex", str(dtype))


@pytest.mark.parametrize("kind", [TicksSign, TicksAdam, TicksMuon])
def test_complex_numbers_have_no_sign(kind: Any) -> None:
    wrong = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    expected = (f"{kind.__name__} takes real parameters", "torch.complex64", "torch.view_as_real")
    refused(ConfigError, lambda: make(kind, [wrong]), *expected)


@EACH
def test_names_are_for_all_or_none(kind: Any) -> None:
    named, plain = ("weight", ones(2)), ones(2)
    refused(ConfigError, lambda: make(kind, [named, plain]), "all parameters have names or none")
    groups = [{"params": [plain]}, {"params": [named]}]
    refused(ConfigError, lambda: make(kind, groups), "all parameters have names or none")
    twice = [named, ("bias", named[1])]
    refused(ConfigError, lambda: make(kind, twice), "one group only, once")


@EACH
@pytest.mark.parametrize("group", [{"lr": 0.1}, [], None])
def test_groups_are_dictionaries_with_params(kind: Any, group: Any) -> None:
    optimizer = make(kind, [ones(2)])
    refused(
        ConfigError, lambda: optimizer.add_param_group(group), "a dict with params", repr(group)
    )


def test_muon_takes_matrices() -> None:
    for shape in ((), (3,), (2, 2, 2)):
        refused(
            ConfigError, lambda s=shape: TicksMuon([ones(*s)]), "muon takes matrices", str(shape)
        )
    groups = [{"params": [ones(2, 2)]}, {"params": [ones(3)], "method": "adamw"}]
    optimizer = TicksMuon(groups)
    more = {"params": [ones(3)]}
    refused(
        ConfigError,
        lambda: optimizer.add_param_group(more),
        "muon takes matrices",
        'method="adamw"',
    )
    assert len(optimizer.param_groups) == 2


# Hyper-parameters --------------------------------------------------------------------------------

NUMBERS = [
    (kind, name)
    for kind in KINDS
    for name in ("lr", "momentum", "weight_decay")
    if (kind, name) != (TicksAdam, "momentum")
] + [(TicksAdam, "eps"), (TicksMuon, "eps"), (TicksMuon, "ns_steps")]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=str)
def test_numbers_are_checked(kind: Any, name: str, wrong: Any) -> None:
    """When given for all or for a group, and when they are changed later."""
    expected = f"{name} must be at least", repr(wrong)
    refused(ConfigError, lambda: make(kind, [ones(2)], **{name: wrong}), *expected)
    group = {"params": [ones(2)], name: wrong}
    refused(ConfigError, lambda: make(kind, [group]), *expected)
    parameter = ones(2)
    optimizer = make(kind, [parameter])
    parameter.sum().backward()
    optimizer.param_groups[0][name] = wrong
    unchanged(optimizer, parameter, optimizer.step, *expected)


@pytest.mark.parametrize("real", [np.float32, np.float64, Decimal, Fraction], ids=str)
def test_numbers_of_other_libraries_are_pythons(real: Any) -> None:
    half = real("0.5") if real is not Fraction else Fraction(1, 2)
    optimizer = TicksMuon([ones(2, 2)], lr=half, ns_steps=np.int64(3), betas=(half, half))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["ns_steps"], group["betas"]) == (0.5, 3, (0.5, 0.5))
    assert {type(value) for value in (group["lr"], *group["betas"])} <= {float, np.float64}
    assert type(group["ns_steps"]) is int
    parameter = ones(2)
    limited = Ticks([parameter], lr=half, max_grad_norm=half, max_update_norm=half)
    parameter.sum().backward()
    limited.step()
    # the window's norm and the update's are both 0.5 at most, and so is the rate
    assert parameter.tolist() == pytest.approx([1 - 0.25 / math.sqrt(2)] * 2)
    assert windows([[1]], micro_batches=np.int64(2), count=len).micro_batches == 2


@pytest.mark.parametrize("kind", [Ticks, TicksSign, TicksMuon])
@pytest.mark.parametrize("wrong", [1, 1.0, 1.5])
def test_momentum_is_below_one(kind: Any, wrong: float) -> None:
    expected = "momentum must be at least 0 and below 1"
    refused(ConfigError, lambda: make(kind, [ones(2)], momentum=wrong), expected, repr(wrong))


BETAS = [(0.9,), (0.9, 1.0), (1.0, 0.9), (-0.1, 0.9), (math.nan, 0.9), (0.9, math.nan)]
BETAS += [(), (0.9, 0.9, 0.9), 0.9, None, ("0.9", "0.9"), "ab"]


@pytest.mark.parametrize("kind", [TicksAdam, TicksMuon])
@pytest.mark.parametrize("wrong", BETAS, ids=str)
def test_betas_are_two_numbers_below_one(kind: Any, wrong: Any) -> None:
    expected = "betas must be two numbers from 0 to below 1", repr(wrong)
    refused(ConfigError, lambda: make(kind, [ones(2)], betas=wrong), *expected)
    group = {"params": [ones(2)], "betas": wrong}
    refused(ConfigError, lambda: make(kind, [group]), *expected)


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        (Ticks, "scaling", "total"),
        (Ticks, "scaling", None),
        (Ticks, "scaling", ["sum"]),
        (TicksMuon, "method", "sgd"),
        (TicksMuon, "adjust_lr_fn", None),
        (TicksMuon, "ns_steps", 2.5),
        (TicksMuon, "ns_steps", 0),
        (TicksMuon, "ns_steps", 100),
    ],
)
def test_choices_are_known(kind: Any, name: str, wrong: Any) -> None:
    options = {name: wrong}
    refused(ConfigError, lambda: make(kind, [ones(2)], **options), f"{name} must be", repr(wrong))


def test_nesterov_cannot_be() -> None:
    refused(ConfigError, lambda: TicksMuon([ones(2, 2)], nesterov=True), "nesterov must be False")


def test_random_rounding_is_done_tensor_by_tensor() -> None:
    def both() -> Ticks:
        return Ticks([ones(2)], 0.1, foreach=True, stochastic_rounding=True)

    refused(ConfigError, both, "tensor by tensor", "foreach=True")


# Gradients ---------------------------------------------------------------------------------------


def unchanged(
    optimizer: Accumulator, parameter: Tensor, call: Callable[[], Any], *expected: str
) -> None:
    """The call is refused; parameter, sums and `.grad` are as before."""
    state, gradient = optimizer.state.get(parameter, {}), parameter.grad
    before = parameter.detach().clone()
    sums = {n: v.clone() for n, v in state.items() if isinstance(v, Tensor)}
    refused(ConfigError, call, *expected)
    assert torch.equal(parameter, before)
    assert parameter.grad is gradient
    assert all(torch.equal(optimizer.state[parameter][name], sums[name]) for name in sums)


@EACH
def test_ticks_need_beats(kind: Any) -> None:
    parameter = ones(2)
    optimizer = make(kind, [parameter])
    expected = "a tick must follow at least one beat", "loss.backward() before step()"
    unchanged(optimizer, parameter, optimizer.step, *expected)
    parameter.sum().backward()
    optimizer.step()
    for _ in range(2):
        unchanged(optimizer, parameter, optimizer.step, *expected)
    optimizer.zero_grad()
    unchanged(optimizer, parameter, optimizer.step, *expected)
    unchanged(optimizer, parameter, lambda: optimizer.step(lambda: None), *expected)
    parameter.sum().backward()
    optimizer.step()


@EACH
def test_sparse_gradients_are_refused(kind: Any) -> None:
    """One parameter's, and none is touched; at the step, or at once where gradients are watched."""
    embedding, other = nn.Embedding(4, 2, sparse=True), ones(2)
    optimizer = make(kind, [other, embedding.weight])

    def tick() -> None:
        (embedding(torch.tensor([1, 2])).sum() + other.sum()).backward()
        optimizer.step()

    before = embedding.weight.detach().clone()
    expected = "gradients must be dense", "torch.sparse_coo", "sparse=False in the embedding"
    refused(ConfigError, tick, *expected)
    assert torch.equal(embedding.weight, before)
    assert torch.equal(other, torch.ones(2))


def test_what_was_frozen_was_not_watched() -> None:
    frozen, other = ones(2).requires_grad_(False), ones(2)
    optimizer = TicksAdam([other, frozen])
    frozen.requires_grad_(True)
    (frozen.sum() + other.sum()).backward()
    expected = "must see every gradient", "shape (2,)", "after"
    unchanged(optimizer, other, optimizer.step, *expected)
    assert torch.equal(frozen, torch.ones(2))


def test_gradients_by_hand_were_not_watched() -> None:
    parameter = ones(2)
    optimizer = TicksAdam([parameter])
    parameter.grad = torch.ones(2)
    unchanged(optimizer, parameter, optimizer.step, "must see every gradient")


@pytest.mark.parametrize("kind", [Ticks, TicksSign, TicksMuon])
def test_the_others_take_gradients_by_hand_and_what_was_frozen(kind: Any) -> None:
    frozen, other = ones(2).requires_grad_(False), ones(2)
    optimizer = make(kind, [other, frozen])
    other.grad = torch.ones(2)
    optimizer.step()
    frozen.requires_grad_(True)
    frozen.sum().backward()
    optimizer.step()
    assert other.tolist() == frozen.tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("limits", [{}, {"max_grad_norm": 1.0}])
def test_gradients_whose_elements_share_memory_are_refused(limits: dict[str, float]) -> None:
    other, parameter = ones(2), ones(2, 2)
    optimizer = Ticks([other, parameter], 0.1, **limits)
    other.grad, parameter.grad = torch.ones(2), torch.ones(2).expand(2, 2)
    refused(ConfigError, optimizer.step, "memory of its own", "strides (0, 1)", ".clone()")
    assert torch.equal(other, torch.ones(2))
    assert torch.equal(parameter, torch.ones(2, 2))
    parameter.grad = parameter.grad.clone(memory_format=torch.contiguous_format)
    optimizer.step()
    assert not torch.equal(parameter, torch.ones(2, 2))
