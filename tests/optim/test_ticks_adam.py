"""TicksAdam against its equations and torch.optim.AdamW, and how far it is from AdamW."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metronorm.errors import ConfigError
from metronorm.optim import TicksAdam, reference
from tests.optim import replay
from tests.optim.replay import (
    FP32,
    FP64,
    ROUNDING,
    TICKS,
    Net,
    far,
    history,
    one_beat,
    refused,
    tensors_of,
)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.0},
    {"betas": (0.0, 0.95), "eps": 1e-6, "weight_decay": 0.1},
]


@pytest.mark.parametrize("dtype", [FP64, FP32])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_thousand_ticks_are_those_of_the_equations(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    given, windows = replay.parameters(dtype), history(TICKS, dtype)
    options = {"lr": 1e-3, "weight_decay": 0.01, **options}
    want = replay.reference(reference.ticks_adam, given, windows, **options)
    replay.replay(TicksAdam(given.values(), **options), given, windows)
    assert far(given, want) < TICKS * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [FP64, FP32])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_one_beat_per_window_it_is_adamw(options: dict[str, Any], dtype: torch.dtype) -> None:
    given, other = replay.parameters(dtype), replay.parameters(dtype)
    windows = one_beat(history(300, dtype))
    replay.replay(TicksAdam(given.values(), 1e-3, **options), given, windows)
    replay.replay_torch(torch.optim.AdamW(other.values(), 1e-3, **options), other, windows)
    assert far(given, other) < 20 * ROUNDING[dtype]


def second_moments(beats: list[torch.Tensor], ticks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and AdamW's, after ticks with these gradients in every window; and one step later."""
    found = []
    for kind in (TicksAdam, torch.optim.AdamW):
        parameter = nn.Parameter(torch.zeros_like(beats[0]))
        optimizer = kind([parameter], 1e-3, (0.9, 0.99), weight_decay=0.0)
        for _ in range(ticks):
            for beat in beats:
                parameter.backward(beat)
            optimizer.step()
            optimizer.zero_grad()
        state = optimizer.state[parameter]
        # ours has been multiplied by beta2 for the next window
        found.append(state["squares"] / 0.99 if kind is TicksAdam else state["exp_avg_sq"])
    return found[0], found[1]


@pytest.mark.parametrize("beats", [1, 2, 3, 8])
def test_beats_that_agree_make_the_second_moment_smaller_by_their_number(beats: int) -> None:
    gradient = torch.randn(50, dtype=FP64, generator=torch.Generator().manual_seed(0))
    ours, adamw = second_moments([gradient] * beats, ticks=20)
    torch.testing.assert_close(beats * ours, adamw, rtol=1e-13, atol=0)


@pytest.mark.parametrize("beats", [2, 8])
def test_beats_that_are_noise_have_the_right_second_moment_in_the_mean(beats: int) -> None:
    """Over 100,000 elements, to four standard errors of the mean of AdamW's: 4 √(2 / n)."""
    generator = torch.Generator().manual_seed(beats)
    noise = [torch.randn(100_000, dtype=FP64, generator=generator) for _ in range(beats)]
    ours, adamw = second_moments(noise, ticks=1)
    assert float(ours.mean() / adamw.mean()) == pytest.approx(1, abs=4 * (2 / 100_000) ** 0.5)
    assert float((ours / adamw).log().std()) > 1  # an element's can be far off


def test_the_first_step_on_agreeing_beats_is_larger_by_the_root_of_their_number() -> None:
    moved = []
    for kind in (TicksAdam, torch.optim.AdamW):
        parameter = nn.Parameter(torch.zeros(1, dtype=FP64))
        optimizer = kind([parameter], 1e-3, eps=0.0)
        for _ in range(4):
            parameter.sum().backward()
        optimizer.step()
        moved.append(parameter.item())
    assert moved == pytest.approx([-2e-3, -1e-3], rel=1e-12)


def test_three_tensors_are_all_the_memory() -> None:
    """The parameter, its gradient and the squares: one fewer than AdamW's four."""
    given = replay.parameters()
    optimizer = TicksAdam(given.values())
    replay.replay(optimizer, given, history(4))
    for parameter, state in optimizer.state.items():
        assert tensors_of(optimizer, parameter) == {"accumulated", "squares"}
        assert state["accumulated"] is parameter.grad


def test_gradients_that_are_not_accumulated_are_not_squared() -> None:
    """`torch.autograd.grad` of the parameters, as for penalties and for logging."""
    given, other = Net(), Net()
    ours = TicksAdam(given.parameters())
    adamw = torch.optim.AdamW(other.parameters())
    for seed in range(5):
        for model, optimizer in ((given, ours), (other, adamw)):
            loss = replay.summed_loss(model, replay.draw_batch(5, seed))
            weight = model.dense.weight
            (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
            (loss + (gradient**2).sum()).backward()
            optimizer.step()
        adamw.zero_grad()
    got, want = dict(given.named_parameters()), dict(other.named_parameters())
    assert far(got, want) < 50 * ROUNDING[FP64]


def test_gradients_that_hooks_change_are_squared_as_they_are_added() -> None:
    given, other = Net(), Net()
    ours = TicksAdam(given.parameters())
    adamw = torch.optim.AdamW(other.parameters())
    for model, optimizer in ((given, ours), (other, adamw)):
        model.dense.weight.register_hook(lambda gradient: 10 * gradient)
        for seed in range(5):
            replay.summed_loss(model, replay.draw_batch(5, seed)).backward()
            optimizer.step()
            model.zero_grad()
    got, want = dict(given.named_parameters()), dict(other.named_parameters())
    assert far(got, want) < 50 * ROUNDING[FP64]


MOVES: dict[str, Callable[[nn.Module], Any]] = {
    "float and back": lambda model: (model.float(), model.double()),
    "twice": lambda model: (model.float(), model.double(), model.float(), model.double()),
    "data": lambda model: [p.data.copy_(p.data) for p in model.parameters()],
    "other data": lambda model: [setattr(p, "data", p.data.clone()) for p in model.parameters()],
    "through half": lambda model: (model.bfloat16(), model.double()),
}


@pytest.mark.parametrize("when", ["before the first", "later"])
@pytest.mark.parametrize("how", MOVES)
def test_the_second_moment_goes_on_after_a_model_has_moved(how: str, when: str) -> None:
    given, other = Net(), Net()
    ours = TicksAdam(given.parameters(), 0.01)
    adamw = torch.optim.AdamW(other.parameters(), 0.01)
    for seed in range(30):
        for model, optimizer in ((given, ours), (other, adamw)):
            if seed == (0 if when == "before the first" else 10):
                MOVES[how](model)
            replay.summed_loss(model, replay.draw_batch(5, seed)).backward()
            optimizer.step()
            model.zero_grad()
    got, want = dict(given.named_parameters()), dict(other.named_parameters())
    # what moves in .grad, in the course of a window, is rounded with the model; here nothing is
    assert far(got, want) < (1e-2 if "half" in how else 1e-6)
    squares = ours.state[given.dense.weight]["squares"] / 0.999
    assert squares.dtype == FP64
    wanted = adamw.state[other.dense.weight]["exp_avg_sq"]
    assert float((squares - wanted).norm() / wanted.norm()) < (1e-1 if "half" in how else 1e-6)


def test_a_model_that_is_another_dtype_from_now_on_has_squares_in_it() -> None:
    model = Net(FP32)
    optimizer = TicksAdam(model.parameters(), 0.01)
    for dtype in (FP32, FP64, torch.bfloat16):
        model.to(dtype)
        replay.summed_loss(model, replay.draw_batch(5, 0)).backward()
        optimizer.step()
        expected = FP32 if dtype == torch.bfloat16 else dtype
        for name in ("squares", "accumulated"):
            assert optimizer.state[model.dense.weight][name].dtype == expected


def deep(shared: bool, reentrant: bool) -> Callable[[nn.Module, Tensor], Tensor]:
    def forward(layers: Any, x: Tensor) -> Tensor:
        for layer in layers:
            for _ in range(2 if shared else 1):
                x = checkpoint(lambda x, f=layer: f(x).tanh(), x, use_reentrant=reentrant)
        return x.square().sum()

    return forward


@pytest.mark.parametrize(("shared", "reentrant"), [(False, True), (False, False), (True, False)])
@pytest.mark.parametrize("beats", [1, 3])
def test_checkpoints_hand_beats_over_whole(beats: int, shared: bool, reentrant: bool) -> None:
    """Also where every parameter is inside of one, and several beats make a window."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(3, 3).double() for _ in range(2)])
    start = nn.utils.parameters_to_vector(layers.parameters()).tolist()
    optimizer, forward = TicksAdam(layers.parameters(), 0.01), deep(shared, reentrant)
    recorded = []
    for tick in range(4):
        recorded.append([])
        for beat in range(beats):
            generator = torch.Generator().manual_seed(10 * tick + beat)
            x = torch.randn(5, 3, dtype=FP64, generator=generator).requires_grad_()
            found = torch.autograd.grad(deep(shared, False)(layers, x), list(layers.parameters()))
            recorded[-1].append(nn.utils.parameters_to_vector(found).tolist())
            forward(layers, x).backward()
        optimizer.step()
    want = reference.ticks_adam(start, recorded, lr=0.01, weight_decay=0.01)
    got = nn.utils.parameters_to_vector(layers.parameters()).detach()
    torch.testing.assert_close(got, torch.tensor(want, dtype=FP64), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("outside", [False, True])
def test_a_layer_shared_under_reentrant_checkpoints_is_refused(outside: bool) -> None:
    """Its gradient comes in parts, and the square of a sum is not the sum of squares."""
    layers = nn.ModuleList([nn.Linear(3, 3)])
    optimizer = TicksAdam(layers.parameters(), 0.01)
    x = torch.ones(1, 3, requires_grad=True)

    def backward() -> None:
        y = layers[0](x) if outside else x
        deep(True, True)(layers, y).backward()

    refused(ConfigError, backward, "must come whole", "use_reentrant=False")
    assert not optimizer.state[layers[0].weight].get("accumulated")


@pytest.mark.parametrize("through", ["optimizer", "model"])
def test_gradients_dropped_before_the_first_tick_leave_no_squares(through: str) -> None:
    given, other = Net(), Net()
    for model, kind in ((given, TicksAdam), (other, torch.optim.AdamW)):
        optimizer = kind(model.parameters(), 0.01)
        (1e6 * replay.summed_loss(model, replay.draw_batch(5, 0))).backward()
        (optimizer if through == "optimizer" else model).zero_grad()
        for seed in range(5):
            replay.summed_loss(model, replay.draw_batch(5, seed)).backward()
            optimizer.step()
            model.zero_grad()
    got, want = dict(given.named_parameters()), dict(other.named_parameters())
    assert far(got, want) < 50 * ROUNDING[FP64]


@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize("through", ["optimizer", "model"])
def test_squares_cannot_be_taken_back(through: str, dropped: bool) -> None:
    """Whether gradients are in the sum or separate, after model.zero_grad()."""
    model = Net()
    optimizer = TicksAdam(model.parameters(), 0.01)

    def train(seed: int) -> None:
        replay.summed_loss(model, replay.draw_batch(5, seed)).backward()

    train(0)
    optimizer.step()
    if dropped:
        model.zero_grad()

    def drop() -> None:
        train(1)
        (optimizer if through == "optimizer" else model).zero_grad()
        train(2)
        optimizer.step()

    refused(ConfigError, drop, "AdamW")


def test_an_optimizer_that_is_dropped_watches_no_longer() -> None:
    model = Net()
    first, place = TicksAdam(model.parameters()), None
    place = weakref.ref(first)
    replay.summed_loss(model, replay.draw_batch(5, 0)).backward()
    first.step()
    squares = weakref.ref(first.state[model.dense.weight]["squares"])
    del first
    gc.collect()
    assert place() is None
    assert squares() is None
    replay.summed_loss(model, replay.draw_batch(5, 0)).backward()
