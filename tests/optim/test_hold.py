"""`on_nonfinite="hold"`: parameters that stay as they are, and a step that never waits."""

from __future__ import annotations

import copy
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode

from metronorm.errors import ConfigError
from metronorm.optim import (
    Ticks,
    TicksAdam,
    TicksMuon,
    TicksSign,
    beats,
    find_learning_rate,
    ticks,
    windows,
)
from metronorm.optim.blocks import ZEROS, any_nonfinite
from metronorm.optim.holding import held_after, step_unless
from metronorm.optim.limits import clip_factor, clip_tensor
from tests.optim import replay
from tests.optim.replay import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Make = Callable[..., Any]

SHAPES = ((3, 4), (4, 3), (1, 5))
BF16, FP32, FP64, C64 = torch.bfloat16, torch.float32, torch.float64, torch.complex64
WRONG = (math.inf, -math.inf, math.nan)

DECAYS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled": True},
)


def mixed(params: Sequence[nn.Parameter], **options: Any) -> TicksMuon:
    """One group of every method."""
    methods = ("muon", "ticks", "adamw")
    groups = [{"params": [p], "method": method} for p, method in zip(params, methods, strict=True)]
    return TicksMuon(groups, 0.1, weight_decay=0.1, **options)


def kind(of: Any, **fixed: Any) -> Make:
    return lambda params, **options: of(params, **{"lr": 0.1, **fixed, **options})


# by name: how to make an optimizer, and the dtype of its parameters
KINDS: dict[str, tuple[Make, torch.dtype]] = {
    **{f"Ticks {decay}": (kind(Ticks, **decay), FP32) for decay in DECAYS},
    **{
        f"Ticks {decay}, clipped": (kind(Ticks, **decay, max_grad_norm=1.0), FP32)
        for decay in DECAYS
    },
    "Ticks, beats clipped": (kind(Ticks, max_beat_norm=1.0), FP32),
    "Ticks, foreach": (kind(Ticks, **DECAYS[2], foreach=True), FP32),
    "Ticks, not fused": (kind(Ticks, **DECAYS[1], foreach=False), FP32),
    "Ticks, little momentum": (kind(Ticks, momentum=0.3, maximize=True), FP32),
    "Ticks, separate": (kind(Ticks, carry="separate"), FP32),
    "Ticks, float64": (kind(Ticks), FP64),
    "Ticks, complex": (kind(Ticks, max_grad_norm=1.0, weight_decay=0.1), C64),
    "Ticks, bfloat16": (kind(Ticks, **DECAYS[2], max_grad_norm=1.0), BF16),
    "Ticks, stochastic": (kind(Ticks, **DECAYS[2], stochastic_rounding=True), BF16),
    "TicksSign": (kind(TicksSign, weight_decay=0.1), FP32),
    "TicksSign, clipped": (kind(TicksSign, max_grad_norm=1.0, maximize=True), FP32),
    "TicksSign, stochastic": (kind(TicksSign, stochastic_rounding=True), BF16),
    "TicksMuon": (kind(TicksMuon, weight_decay=0.1), FP32),
    "TicksMuon, mixed": (mixed, FP32),
    "TicksMuon, mixed, clipped": (lambda p, **o: mixed(p, max_grad_norm=1.0, **o), FP32),
    "TicksMuon, mixed, bfloat16": (mixed, BF16),
    "TicksAdam": (kind(TicksAdam), FP32),
    "TicksAdam, bfloat16": (kind(TicksAdam, weight_decay=0.0), BF16),
}
# the clip of an update multiplies the sum and not the learning rate: other rounding
ROUNDED: dict[str, tuple[Make, torch.dtype]] = {
    f"Ticks {options}, update clipped": (kind(Ticks, **options, max_update_norm=0.5), FP32)
    for options in (*DECAYS, {"scaling": "mean"}, {"foreach": True})
}
ALL = KINDS | ROUNDED
EVERY = pytest.mark.parametrize("name", ALL)


def parameters(dtype: torch.dtype, device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    values[0][0, 0] = -0.0
    return [nn.Parameter(each.to(device, dtype)) for each in values]


def gradients(params: Sequence[Tensor], tick: int, beat: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(10 * tick + beat)
    return [
        torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device, p.dtype)
        for p in params
    ]


def train(
    optimizer: Any,
    params: Sequence[nn.Parameter],
    numbers: range,
    spoil: tuple[int, int, int, int, float] | None = None,  # tick, beat, parameter, element, value
) -> None:
    """Complete ticks: beats, step, zero_grad. One element of one gradient may not be finite."""
    for tick in numbers:
        for beat in range(2):
            gs = gradients(params, tick, beat)
            if spoil is not None and (tick, beat) == spoil[:2]:
                of, element, value = spoil[2:]
                gs[of].view(-1)[element % gs[of].numel()] = value
            torch.autograd.backward(params, gs)
            if optimizer._limits.max_beat_norm is not None:
                optimizer.fold()
        optimizer.step()
        optimizer.zero_grad()


def made(name: str, mode: str = "hold", device: str = "cpu") -> tuple[Any, list[nn.Parameter]]:
    make, dtype = ALL[name]
    params = parameters(dtype, device)
    torch.manual_seed(0)  # of stochastic rounding
    return make(params, on_nonfinite=mode), params


def bits(params: Sequence[Tensor]) -> list[list[int]]:
    return [each.detach().flatten().view(torch.uint8).tolist() for each in params]


# Nothing is read on the host ---------------------------------------------------------------------


class ReadOnHostError(AssertionError):
    """An operation that waits for the device."""


class NoReads(TorchDispatchMode):
    """Refuses what copies the value of a tensor to the host, or a tensor to another device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        reads = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
        if packet in [getattr(torch.ops.aten, name) for name in reads]:
            raise ReadOnHostError(str(func))
        result = func(*args, **(kwargs or {}))
        if packet in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            devices = {each.device for each in (result, *args) if isinstance(each, Tensor)}
            if len(devices) > 1:
                raise ReadOnHostError(f"{func} between {devices}")
        return result


@EVERY
def test_a_tick_reads_nothing(name: str) -> None:
    optimizer, params = made(name)
    with NoReads():
        train(optimizer, params, range(3))
    assert not optimizer.held


@pytest.mark.parametrize("read", [Tensor.item, float, bool, lambda each: each.to("meta")])
def test_reads_are_seen(read: Callable[[Tensor], Any]) -> None:
    with NoReads(), pytest.raises(ReadOnHostError):
        read(torch.ones(()))


@EVERY
def test_raising_reads(name: str) -> None:
    optimizer, params = made(name, "raise")
    with NoReads(), pytest.raises(ReadOnHostError):
        train(optimizer, params, range(1))


def only_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device `meta` have no memory, so all of them seem to be the same memory."""
    monkeypatch.setattr(beats, "same_memory", lambda one, other: one is other)


@EVERY
def test_a_tick_needs_no_values_at_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device `meta` there are none, and whatever reads one is an error."""
    only_identity(monkeypatch)
    optimizer, params = made(name, device="meta")
    optimizer.hold(torch.zeros((), dtype=torch.bool, device="meta"))
    train(optimizer, params, range(3))
    assert optimizer.held.is_meta
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool(optimizer.held)


@EVERY
def test_raising_needs_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only_identity(monkeypatch)
    optimizer, params = made(name, "raise", device="meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        train(optimizer, params, range(1))


def test_the_fused_step_gets_a_flag_and_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself has no form for `meta`: this is all that happens around it."""
    only_identity(monkeypatch)
    flags = []
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *_, found_inf, **__: flags.append(found_inf))
    monkeypatch.setattr(ticks, "can_fuse", lambda *_: True)
    optimizer, params = made("Ticks {}", device="meta")
    train(optimizer, params, range(3))
    assert [flag.device.type for flag in flags] == ["meta"] * 3


# Parameters that stay, and parameters that move as always -----------------------------------------


@EVERY
@settings(max_examples=12, deadline=None)
@drawn(
    st.integers(0, 2),
    st.integers(0, 1),
    st.integers(0, len(SHAPES) - 1),
    st.integers(0, 11),
    st.sampled_from(WRONG),
)
def test_parameters_stay_bitwise_and_for_good(
    name: str, tick: int, beat: int, of: int, element: int, wrong: float
) -> None:
    optimizer, params = made(name)
    start = bits(params)
    train(optimizer, params, range(tick))
    before = bits(params)
    assert (before != start) == (tick > 0)
    assert not optimizer.held
    train(optimizer, params, range(tick, tick + 1), spoil=(tick, beat, of, element, wrong))
    assert optimizer.held
    assert bits(params) == before
    train(optimizer, params, range(tick + 1, tick + 3))
    assert optimizer.held
    assert bits(params) == before


@EVERY
def test_finite_windows_move_as_with_raise(name: str) -> None:
    optimizer, params = made(name)
    train(optimizer, params, range(6))
    want, others = made(name, "raise")
    train(want, others, range(6))
    if name in KINDS:
        assert bits(params) == bits(others)
    for given, other in zip(params, others, strict=True):
        torch.testing.assert_close(given, other, rtol=2e-6, atol=2e-6)
    assert optimizer.held.dtype == torch.bool
    assert optimizer.held.shape == ()
    assert not optimizer.held
    assert not want.held


def test_large_gradients_are_finite() -> None:
    """Even where their squares are not, and the norm is not: then nothing is clipped."""
    for options in ({}, {"max_grad_norm": 1e38}, {"max_update_norm": 1e38}):
        parameter = nn.Parameter(torch.zeros(2))
        optimizer = Ticks([parameter], 1e-30, on_nonfinite="hold", **options)
        (1e30 * parameter).sum().backward()
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), torch.full((2,), -1.0))


def test_the_norm_is_on_the_device() -> None:
    norms: dict[str, Any] = {}
    for mode in ("raise", "hold"):
        optimizer, params = made("Ticks {}, clipped", mode)
        assert optimizer.gradient_norm is None
        train(optimizer, params, range(2))
        norms[mode] = optimizer.gradient_norm
    assert isinstance(norms["raise"], float)
    assert norms["hold"].shape == ()
    assert norms["hold"].item() == norms["raise"]


@drawn(st.floats(0, allow_infinity=True, width=32), st.floats(0, exclude_min=True))
def test_both_clips_are_the_same_number(norm: float, largest: float) -> None:
    assert clip_tensor(torch.tensor(norm), largest).item() == clip_factor(norm, largest)


def test_parameters_without_a_gradient_are_no_obstacle() -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(2))]
    optimizer = Ticks(params, 0.1, on_nonfinite="hold")
    for _ in range(2):
        (params[0].sum() + params[1].sum()).backward()
        optimizer.step()
    assert not optimizer.held
    assert params[0].tolist() == pytest.approx([0.71] * 2)
    assert params[2].tolist() == [1.0] * 2


# What is finite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, BF16, FP32, FP64, C64])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("place", [0, 5, ZEROS - 1, ZEROS, 3 * ZEROS - 1, 3 * ZEROS + 6])
def test_every_element_is_seen(dtype: torch.dtype, wrong: float, place: int) -> None:
    large = torch.full((3 * ZEROS + 7,), torch.finfo(dtype).max, dtype=dtype)
    others = [torch.ones(3), torch.ones(0), torch.ones(2, dtype=FP64)]
    assert not any_nonfinite([*others, large])
    large[place] = complex(0, wrong) if dtype.is_complex else wrong
    assert any_nonfinite([*others, large])
    assert any_nonfinite([large[max(place - 1, 0) :].view(-1, 1).expand(-1, 2)])
    assert not any_nonfinite([torch.ones(0)])


# The flag ----------------------------------------------------------------------------------------


@EVERY
def test_a_caller_can_hold(name: str) -> None:
    optimizer, params = made(name)
    train(optimizer, params, range(2))
    before, sound = bits(params), optimizer.held
    optimizer.hold(torch.tensor(False))
    assert not optimizer.held
    optimizer.hold(torch.tensor(math.nan).isfinite().logical_not())
    optimizer.hold(torch.tensor(False))
    assert optimizer.held
    assert not sound  # what was read earlier keeps its value
    train(optimizer, params, range(2, 4))
    assert bits(params) == before


@pytest.mark.parametrize(
    ("flag", "got"),
    [
        (True, "bool"),
        (torch.tensor(1.0), "torch.float32"),
        (torch.tensor([True]), "shape (1,)"),
        (torch.tensor(True, device="meta"), "on meta"),
    ],
)
def test_other_flags_are_refused(flag: Any, got: str) -> None:
    optimizer, _ = made("Ticks {}")
    refused(ConfigError, lambda: optimizer.hold(flag), "0-dim bool tensor on cpu", got)


@pytest.mark.parametrize("mode", ["raise", "skip", None])
def test_only_an_optimizer_that_looks_at_the_flag_takes_one(mode: Any) -> None:
    optimizer = Ticks([nn.Parameter(torch.ones(2))], 0.1, on_nonfinite=mode)
    refused(ConfigError, lambda: optimizer.hold(torch.tensor(True)), 'on_nonfinite="hold"')
    assert not optimizer.held


@pytest.mark.parametrize("name", ["Ticks {}", "Ticks {}, clipped", "TicksMuon, mixed", "TicksAdam"])
def test_a_loaded_state_begins_again(name: str) -> None:
    """And the states of both modes have the same form."""
    optimizer, params = made(name)
    train(optimizer, params, range(2))
    state, start = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(params)
    train(optimizer, params, range(2, 3), spoil=(2, 0, 1, 0, math.nan))
    assert optimizer.held
    optimizer.load_state_dict(state)
    assert not optimizer.held
    train(optimizer, params, range(2, 5))
    want, others = made(name, "raise")
    with torch.no_grad():
        for given, value in zip(others, start, strict=True):
            given.copy_(value)
    theirs = want.state_dict()
    want.load_state_dict(state)
    train(want, others, range(2, 5))
    assert bits(params) == bits(others)
    assert want.state_dict().keys() == optimizer.state_dict().keys() == theirs.keys()
    for ours, other in zip(
        optimizer.state_dict()["state"].values(), want.state_dict()["state"].values(), strict=True
    ):
        assert {key: type(value) for key, value in ours.items()} == {
            key: type(value) for key, value in other.items()
        }


@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
@pytest.mark.parametrize("name", ["Ticks {}", "TicksMuon, mixed", "TicksAdam"])
def test_copies_hold_too(name: str, way: Callable[[Any], Any], spoilt: bool) -> None:
    optimizer, params = made(name)
    train(optimizer, params, range(1))
    if spoilt:
        optimizer.hold(torch.tensor(True))
    before = bits(params)
    twin, twins = way((optimizer, params))
    assert twin.held.item() == spoilt
    train(twin, twins, range(1, 2))
    assert (bits(twins) == before) == spoilt
    assert bits(params) == before
    optimizer.hold(torch.tensor(True))
    assert twin.held.item() == spoilt


def test_the_flag_follows_the_parameters() -> None:
    """As after `model.to()`."""
    optimizer, params = made("Ticks {}")
    assert optimizer.held.device.type == "cpu"
    optimizer.param_groups[0]["params"][0] = params[0].to("meta")
    assert optimizer.held.is_meta


# What it refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Ticks {}", "TicksMuon, mixed", "TicksAdam"])
def test_a_grad_scaler_is_refused(name: str) -> None:
    optimizer, params = made(name)
    before, amp = bits(params), GradScaler("cpu", init_scale=1024.0)
    amp.scale(sum((p * p).sum() for p in params)).backward()
    refused(ConfigError, lambda: amp.step(optimizer), "GradScaler", "bfloat16")
    assert bits(params) == before


def test_several_devices_are_refused() -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))]
    optimizer = Ticks(params, 0.1, on_nonfinite="hold")
    for each in params:
        each.sum().backward()
    refused(ConfigError, optimizer.step, "one device", "cpu, meta")
    assert params[0].tolist() == [1.0] * 2


def test_hyper_parameters_on_a_device_are_refused() -> None:
    """A tensor on the CPU is read, as nothing waits for that."""
    rate = torch.tensor(0.1, device="meta")
    parameter = nn.Parameter(torch.ones(2))
    refused(ConfigError, lambda: Ticks([parameter], rate, on_nonfinite="hold"), "lr", "meta")
    optimizer = Ticks([parameter], rate.new_tensor(0.1, device="cpu"), on_nonfinite="hold")
    parameter.sum().backward()
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.9] * 2)


@pytest.mark.parametrize("mode", ["skip", None, "held"])
def test_squares_can_only_raise_or_hold(mode: Any) -> None:
    params = [nn.Parameter(torch.ones(2))]
    refused(ConfigError, lambda: TicksAdam(params, on_nonfinite=mode), "'raise', 'hold'")


# Beside others -----------------------------------------------------------------------------------


def test_a_search_ends_where_the_optimizer_holds() -> None:
    """As it does where the optimizer raises: the loss may be finite where its gradient is not."""
    found = {}
    for mode in ("raise", "hold"):
        torch.manual_seed(0)
        model, calls = nn.Linear(4, 1), [0]

        def spoil(gradient: Tensor, calls: list[int] = calls) -> Tensor:
            calls[0] += 1
            return gradient * math.inf if calls[0] == 20 else gradient

        model.weight.register_hook(spoil)
        optimizer: Any = Ticks(model.parameters(), 0.1, on_nonfinite=mode)  # type: ignore[arg-type]
        batches = [torch.randn(64, 4) for _ in range(60)]
        found[mode] = find_learning_rate(
            model,
            optimizer,
            windows(batches, 1, count=len),
            lambda model, x: (model(x) - x.sum(1, keepdim=True)).square().sum(),
            highest=1e-3,
            ticks=50,
        )
        assert not optimizer.held  # it is undone
    assert len(found["hold"].losses) == 20
    assert found["hold"] == found["raise"]


FUSED = [
    lambda params: torch.optim.AdamW(params, 0.1, weight_decay=0.1, fused=True),
    lambda params: torch.optim.Adam(params, 0.1, fused=True, amsgrad=True),
    lambda params: torch.optim.SGD(params, 0.1, 0.9, weight_decay=0.1, fused=True),
]


@pytest.mark.parametrize("make", FUSED)
def test_fused_optimizers_of_torch_leave_out_a_step(make: Make) -> None:
    """With NaN in the gradient; before and after, steps are those of `step()`."""
    params, others = parameters(FP32), parameters(FP32)
    optimizer, other = make(params), make(others)
    for tick in range(5):
        gs = gradients(params, tick, 0)
        if tick == 2:
            gs[1][0, 0] = math.nan
        else:
            for each, g in zip(others, gs, strict=True):
                each.grad = g.clone()
            other.step()
        for each, g in zip(params, gs, strict=True):
            each.grad = g
        with NoReads():
            step_unless(optimizer, held_after(torch.tensor(False), gs))
        assert not hasattr(optimizer, "found_inf")
        assert bits(params) == bits(others)
    for ours, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert bits([v for v in ours.values() if v is not None]) == bits(
            [v for v in theirs.values() if v is not None]
        )


def test_an_optimizer_that_is_not_fused_is_refused() -> None:
    params = parameters(FP32)
    fused = [{"params": params[:1], "fused": True}, {"params": params[1:], "fused": False}]
    for given in (fused, params):
        optimizer = torch.optim.AdamW(given)
        refused(ConfigError, lambda o=optimizer: step_unless(o, torch.tensor(True)), "fused=True")
    adam = torch.optim.AdamW(params, fused=True)
    refused(ConfigError, lambda: step_unless(adam, torch.tensor(1.0)), "0-dim bool")


def test_a_whole_model_trains_as_with_raise() -> None:
    """Parameters that are tied, used twice, frozen, and used only at times."""
    given, other = replay.parameters(), replay.parameters()
    replay.replay(Ticks(given.values(), 0.01, on_nonfinite="hold"), given, replay.history(50))
    replay.replay(Ticks(other.values(), 0.01), other, replay.history(50))
    assert replay.same(given, other)
