"""What is a beat: gradients of backward(), and no other change of `.grad`."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksMuon, TicksSign
from tests.optim.replay import FP64, refused

HYPER: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}


def one(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=FP64))


def trained(loop: Callable[[Any, Any], None], make: Any, **options: Any) -> list[Tensor]:
    """Parameters of a small model after a loop that gets model and optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    loop(model, make(model.parameters(), **HYPER, **options))
    return [parameter.detach() for parameter in model.parameters()]


def loss(model: nn.Module, seed: int) -> Tensor:
    x = torch.randn(5, 3, dtype=FP64, generator=torch.Generator().manual_seed(seed))
    return model(x).square().mean()


def as_sgd(loop: Callable[[Any, Any], None], **options: Any) -> None:
    got, want = trained(loop, Ticks, **options), trained(loop, SGD)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-15)


# The same memory in another tensor ---------------------------------------------------------------

HANDED_ON: dict[str, Callable[[Tensor], Tensor]] = {
    ".data": lambda grad: grad.data,
    "detach": lambda grad: grad.detach(),
    "view": lambda grad: grad.view(grad.shape),
    "slice of all": lambda grad: grad[:],
    "part of a flat buffer, whole": lambda grad: grad.view(-1)[: grad.numel()].view_as(grad),
}


@pytest.mark.parametrize("when", ["after the step", "between the beats", "before the step"])
@pytest.mark.parametrize("how", HANDED_ON)
def test_a_gradient_that_is_handed_on_is_the_sum_still(how: str, when: str) -> None:
    def loop(model: nn.Module, optimizer: Any) -> None:
        def hand_on(now: str) -> None:
            for parameter in model.parameters() if now == when else ():
                if parameter.grad is not None:
                    parameter.grad = HANDED_ON[how](parameter.grad)

        for tick in range(6):
            loss(model, tick).backward()
            hand_on("between the beats")
            loss(model, 10 + tick).backward()
            hand_on("before the step")
            optimizer.step()
            optimizer.zero_grad()
            hand_on("after the step")

    as_sgd(loop)


def test_what_a_wrapper_adds_to_its_own_view_inside_of_backward_is_a_beat() -> None:
    """As DDP and FSDP1 do at its end: with a version of its own, and no hook of the parameter."""
    parameter, other = one(), one()
    optimizer = Ticks([parameter, other], **HYPER)
    (parameter + other).sum().backward()
    optimizer.step()
    parameter.grad = parameter.grad.data

    def add() -> None:
        parameter.grad.add_(1.0)

    engine: Any = torch.autograd.Variable._execution_engine
    other.register_hook(lambda _: engine.queue_callback(add))
    other.sum().backward()
    optimizer.step()
    assert parameter.item() == other.item() == pytest.approx(0.71)


def test_a_gradient_over_some_of_the_memory_is_refused() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = Ticks([parameter], **HYPER)
    parameter.sum().backward()
    optimizer.step()
    parameter.grad = parameter.grad.t()
    refused(ConfigError, optimizer.step, "or none of it", ".clone()")


def test_a_copy_of_the_sum_is_no_gradient() -> None:
    """It would count twice, as clones that a wrapper puts into `.grad` would."""
    parameters = [one(), one()]
    optimizer = Ticks(parameters, **HYPER)
    sum(parameters).sum().backward()
    optimizer.step()
    for parameter in parameters:
        parameter.grad = parameter.grad.clone()
    refused(ConfigError, sum(parameters).sum().backward, "a copy", 'carry="separate"')
    other = [one(), one()]
    optimizer = Ticks(other, **HYPER, carry="separate")
    for _ in range(3):
        sum(other).sum().backward()
        for parameter in other:
            parameter.grad = parameter.grad.clone()
        optimizer.step()
    assert other[0].item() == pytest.approx(1 - 0.1 * (1 + 1.9 + 2.71))


# Changes that are no beats -----------------------------------------------------------------------


def gradients(given: list[nn.Parameter]) -> list[Tensor]:
    return [each.grad for each in given if each.grad is not None]


NO_BEATS: dict[str, Callable[[list[nn.Parameter]], Any]] = {
    "clip that clips nothing": lambda given: clip_grad_norm_(given, torch.inf),
    "unscale by one": lambda given: torch._foreach_mul_(gradients(given), 1.0),
    "all-reduce of one rank": lambda given: [each.copy_(each.clone()) for each in gradients(given)],
    "clip by value": lambda given: nn.utils.clip_grad_value_(given, 1e9),
}


@pytest.mark.parametrize("when", ["before backward", "between the beats", "before the step"])
@pytest.mark.parametrize("how", NO_BEATS)
@pytest.mark.parametrize(
    "kind", [Ticks, TicksSign, lambda p, **o: TicksMuon(p, method="ticks", **o)]
)
def test_idle_parameters_stay_where_they_are(kind: Any, how: str, when: str) -> None:
    used, idle = one(), one()
    optimizer = kind([used, idle], **HYPER)
    (used + idle).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    for now in ("before backward", "between the beats", "before the step"):
        if now == when:
            NO_BEATS[how]([used, idle])
        if now != "before the step":
            used.sum().backward()
    optimizer.step()
    assert idle.item() == pytest.approx(0.9)
    assert used.item() < 0.81
    idle.sum().backward()
    optimizer.step()
    assert idle.item() < 0.81


def test_a_change_outside_of_backward_logs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    parameter = one()
    optimizer = Ticks([parameter], **HYPER)
    for _ in range(5):
        parameter.sum().backward()
        optimizer.step()
    assert caplog.messages == []
    for _ in range(3):
        parameter.sum().backward()
        clip_grad_norm_([parameter], 0.5)
        optimizer.step()
    assert [text for text in caplog.messages if 'carry="separate"' in text] == caplog.messages
    assert len(caplog.messages) == 1


def test_zeroing_in_place_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 2)
    optimizer = Ticks(model.parameters(), **HYPER)
    for _ in range(2):
        model.zero_grad(set_to_none=False)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert len(caplog.messages) == 1
    assert "zeroed" in caplog.messages[0]


def test_gradients_that_are_added_by_hand_are_beats_where_there_is_no_backward() -> None:
    parameter = one()
    optimizer = Ticks([parameter], **HYPER)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for _ in range(2):
        parameter.grad.add_(1.0)
        optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.1 * (1 + 1.9 + 2.71))


# Gradients of another loss -----------------------------------------------------------------------

CLEAR: dict[str, Callable[[nn.Module, Any], None]] = {
    "optimizer": lambda model, optimizer: optimizer.zero_grad(),
    "model": lambda model, optimizer: model.zero_grad(),
}


def adversarial(clear: Callable[[nn.Module, Any], None]) -> Callable[[Any, Any], None]:
    """The sign of the gradient of the inputs (Goodfellow et al., 2014), then training on that."""

    def loop(model: nn.Module, optimizer: Any) -> None:
        for tick in range(8):
            x = torch.randn(5, 3, dtype=FP64, generator=torch.Generator().manual_seed(tick))
            x.requires_grad_()
            model(x).square().mean().backward()
            clear(model, optimizer)
            model(x.detach() + 0.1 * x.grad.sign()).square().mean().backward()
            optimizer.step()
            clear(model, optimizer)

    return loop


def two_players(clear: Callable[[nn.Module, Any], None]) -> Callable[[Any, Any], None]:
    """The other player's loss goes through this model and leaves gradients, as in a GAN."""

    def loop(model: nn.Module, optimizer: Any) -> None:
        torch.manual_seed(1)
        maker = nn.Linear(2, 3).double()
        other = SGD(maker.parameters(), 0.01)
        for tick in range(8):
            clear(model, optimizer)
            loss(model, tick).backward()
            optimizer.step()
            clear(maker, other)
            (-model(maker(torch.ones(1, 2, dtype=FP64)))).mean().backward()
            other.step()

    return loop


def dropping(clear: Callable[[nn.Module, Any], None]) -> Callable[[Any, Any], None]:
    """Every fifth batch is bad."""

    def loop(model: nn.Module, optimizer: Any) -> None:
        for tick in range(20):
            (loss(model, tick) * (1e6 if tick % 5 == 3 else 1)).backward()
            if tick % 5 == 3:
                clear(model, optimizer)
                continue
            optimizer.step()
            clear(model, optimizer)

    return loop


LOOPS = pytest.mark.parametrize("loop", [adversarial, two_players, dropping])
CLEARS = pytest.mark.parametrize("clear", CLEAR)


@LOOPS
@CLEARS
@pytest.mark.parametrize("options", [{}, {"on_nonfinite": "skip"}], ids=str)
def test_kept_separate_gradients_of_another_loss_are_dropped(
    options: dict[str, Any], clear: str, loop: Any
) -> None:
    as_sgd(loop(CLEAR[clear]), carry="separate", **options)


@LOOPS
@CLEARS
def test_by_default_gradients_of_another_loss_never_stay_silently(clear: str, loop: Any) -> None:
    """The result is right, or an error names the ways out."""

    def ended() -> str:
        try:
            as_sgd(loop(CLEAR[clear]))
        except ConfigError as error:
            return str(error)
        return 'right, as with carry="separate"'

    assert 'carry="separate"' in ended()


def test_a_loop_that_drops_gradients_before_its_first_tick_is_kept_separate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    as_sgd(adversarial(CLEAR["optimizer"]))
    assert caplog.messages == [
        "a loop that drops gradients before its first step() keeps .grad separate from the sum: "
        "0.0 MiB more"
    ]


def test_that_it_is_kept_separate_is_part_of_the_state() -> None:
    parameter = one()
    optimizer = Ticks([parameter], **HYPER)
    parameter.sum().backward()
    optimizer.zero_grad()
    parameter.sum().backward()
    optimizer.step()
    again = Ticks([parameter], **HYPER)
    again.load_state_dict(optimizer.state_dict())
    copied = copy.deepcopy(optimizer)
    for each in (again, copied):
        assert each.param_groups[0]["carry"] == "separate"
        (1e6 * each.param_groups[0]["params"][0]).sum().backward()
        each.zero_grad()


def test_an_older_state_has_no_carry() -> None:
    parameter = one()
    optimizer = Ticks([parameter], **HYPER)
    parameter.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    del state["param_groups"][0]["carry"]
    optimizer.load_state_dict(state)
    parameter.sum().backward()
    optimizer.step()
    assert parameter.item() == pytest.approx(0.71)


def test_what_was_refused_can_still_be_used() -> None:
    """Nothing is lost: the beats count as before."""
    parameter = one()
    optimizer = Ticks([parameter], **HYPER)
    for _ in range(2):
        parameter.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    parameter.sum().backward()
    refused(ConfigError, optimizer.zero_grad, "cannot take back", 'carry="separate"')
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.1 * (1 + 1.9 + 2.71))


@pytest.mark.parametrize("wrong", ["in place", None, True])
def test_ways_to_carry_are_known(wrong: Any) -> None:
    refused(
        ConfigError, lambda: Ticks([one()], 0.1, carry=wrong), "carry must be one of", repr(wrong)
    )


# Backward inside of backward ---------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("beats", [1, 3])
def test_checkpoints_and_shared_layers(beats: int, reentrant: bool) -> None:
    def loop(model: Any, optimizer: Any) -> None:
        torch.manual_seed(1)
        shared = nn.Linear(3, 3).double()
        optimizer.add_param_group({"params": list(shared.parameters())})
        for tick in range(5):
            optimizer.zero_grad()
            for beat in range(beats):
                generator = torch.Generator().manual_seed(10 * tick + beat)
                x = torch.randn(5, 3, dtype=FP64, generator=generator).requires_grad_()
                for _ in range(3):
                    x = checkpoint(lambda x: shared(x).tanh(), x, use_reentrant=reentrant)
                model(shared(x)).square().mean().backward()
            optimizer.step()

    as_sgd(loop)


def test_a_backward_that_fails_leaves_beats_that_cannot_be_taken_back() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("no memory")

    first, last = one(), one()
    optimizer = Ticks([first, last], **HYPER)
    (first * last).sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="no memory"):
        (Broken.apply(first.tanh()) + last).sum().backward()
    refused(ConfigError, optimizer.zero_grad, "cannot take back")
    first.sum().backward()
    optimizer.step()
    optimizer.zero_grad()


# One optimizer after another ---------------------------------------------------------------------


@pytest.mark.parametrize("second", [Ticks, TicksSign, SGD])
@pytest.mark.parametrize("first", [Ticks, TicksSign])
def test_an_optimizer_that_comes_later_begins_at_nothing(first: Any, second: Any) -> None:
    parameter = one()
    optimizer = first([parameter], **HYPER)
    (100 * parameter).sum().backward()
    optimizer.step()
    optimizer = second([parameter], **HYPER)
    before = parameter.item()
    parameter.sum().backward()
    optimizer.step()
    assert parameter.item() == pytest.approx(before - 0.1)


def test_an_optimizer_of_ticks_begins_at_nothing_while_the_other_one_exists() -> None:
    parameter = one()
    first = Ticks([parameter], **HYPER)
    (100 * parameter).sum().backward()
    first.step()
    second = Ticks([parameter], **HYPER)
    before = parameter.item()
    parameter.sum().backward()
    second.step()
    assert parameter.item() == pytest.approx(before - 0.1)


def test_a_gradient_that_was_there_before_the_optimizer_is_its_first() -> None:
    parameter = one()
    parameter.sum().backward()
    optimizer = Ticks([parameter], **HYPER)
    optimizer.step()
    assert parameter.item() == pytest.approx(0.9)


def test_an_optimizer_cannot_be_made_inside_the_window_of_another() -> None:
    parameter = one()
    first = Ticks([parameter], **HYPER)
    for _ in range(2):
        parameter.sum().backward()
        if not first.state:
            first.step()
    refused(
        ConfigError, lambda: Ticks([parameter], 0.1), "between two windows", "model.zero_grad()"
    )
    first.step()
    Ticks([parameter], 0.1)


def test_an_optimizer_that_is_dropped_frees_its_sums() -> None:
    parameter = one()
    optimizer = Ticks([parameter], **HYPER)
    parameter.sum().backward()
    optimizer.step()
    total = weakref.ref(parameter.grad)
    del optimizer
    gc.collect()
    assert parameter.grad is None
    assert total() is None
    assert not parameter._post_accumulate_grad_hooks


# Models that move --------------------------------------------------------------------------------


@pytest.mark.parametrize("carry", ["auto", "separate"])
@pytest.mark.parametrize("started", [False, True])
def test_a_model_in_half_precision_has_sums_in_float32(started: bool, carry: Any) -> None:
    """Also one that was converted after the optimizer was made: 1 + 2**-9 is 1 in bfloat16."""
    parameter = nn.ParameterList([nn.Parameter(torch.zeros(2))])
    optimizer = Ticks(parameter.parameters(), 2.0**-6, 0.5, carry=carry)
    if started:
        parameter[0].sum().backward()
        optimizer.step()
    parameter.bfloat16()
    optimizer.zero_grad()
    for _ in range(256):
        parameter[0].backward(torch.full((2,), 2.0**-9).bfloat16())
    optimizer.step()
    total = optimizer.state[parameter[0]]["accumulated"]
    assert total.dtype == torch.float32
    assert not optimizer.state[parameter[0]]["apart"]
    assert total.tolist() == [0.5 * (0.5 * started + 256 * 2.0**-9)] * 2


@pytest.mark.parametrize("carry", ["auto", "separate"])
@pytest.mark.parametrize("drop", [False, True])
def test_a_model_that_moves_and_comes_back_trains_on(drop: bool, carry: Any) -> None:
    def loop(model: Any, optimizer: Any) -> None:
        for tick in range(8):
            if tick == 3:
                model.float()
                model.double()
            loss(model, tick).backward()
            optimizer.step()
            optimizer.zero_grad()
            if drop:
                model.zero_grad()

    got, want = trained(loop, Ticks, carry=carry), trained(loop, SGD)
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)  # float() has rounded
