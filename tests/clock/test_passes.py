import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metronorm.clock.hooks import Watch

from .training import BACKWARD, FORWARD, TICK, UPDATE, Training

WITHOUT_DATA = {name: ns for name, ns in TICK.items() if name != "data"}


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "run")


def watch(training: Training) -> Watch:
    return Watch(training.clock, training.model, training.optimizer)


@dataclasses.dataclass
class Output:
    loss: Tensor
    number: int = 1


def of_transformers(y: Tensor) -> Any:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    return outputs.CausalLMOutput(loss=y.sum(), logits=y.detach())


@pytest.mark.parametrize(
    ("form", "loss_of"),
    [
        (lambda y: y, lambda out: out.sum()),
        (lambda y: (None, [y]), lambda out: out[1][0].sum()),
        (lambda y: {"a": {"b": y}, "c": 1}, lambda out: out["a"]["b"].sum()),
        (lambda y: Output(y.sum()), lambda out: out.loss),
        (of_transformers, lambda out: out.loss),
        (lambda y: (y, 2 * y, y.detach()), lambda out: out[1].sum()),
        (lambda y: y.unbind(), lambda out: out[0].sum()),
    ],
    ids=["tensor", "list", "dictionary", "dataclass", "transformers", "one of several", "views"],
)
def test_outputs_of_any_form(
    training: Training, form: Callable[[Tensor], Any], loss_of: Callable[[Any], Tensor]
) -> None:
    training.model.form = form
    with watch(training):
        for _ in range(2):
            loss_of(training.model(torch.ones(1, 2))).backward()
            training.optimizer.step()
    assert training.phases() == [WITHOUT_DATA] * 2


def test_an_output_of_another_kind_has_no_backward(training: Training) -> None:
    training.model.form = lambda y: iter([y])
    with watch(training):
        next(training.model(torch.ones(1, 2))).sum().backward()
        training.optimizer.step()
    assert training.phases() == [{"forward": FORWARD, "unattributed": BACKWARD, "update": UPDATE}]


def test_other_hooks_belong_to_the_forward_pass(training: Training) -> None:
    training.model.register_forward_pre_hook(lambda *_: training.time.pass_(1))
    training.model.register_forward_hook(lambda *_: training.time.pass_(1))
    with watch(training):
        training.turn(torch.ones(1, 2))
    assert training.phases() == [WITHOUT_DATA | {"forward": FORWARD + 2}]


def test_what_counts_as_evaluation(training: Training) -> None:
    model, x = training.model, torch.ones(1, 2)
    model.eval()  # as a model that was loaded for fine-tuning
    with watch(training):
        training.turn(x)
        model.train()
        training.turn(x)
        model.eval()
        model(x)
        with torch.inference_mode():
            model(x)
        model.train()
        with torch.no_grad():
            model(x)
        training.turn(x)
    found = training.ticks()
    assert [tick["beats"] for tick in found] == [1, 1, 1]
    evaluated = WITHOUT_DATA | {"evaluate": 3 * FORWARD}
    assert [tick["phases"] for tick in found] == [WITHOUT_DATA, evaluated, WITHOUT_DATA]


def test_a_model_that_calls_itself_is_called_once(training: Training) -> None:
    model = training.model

    class Twice(nn.Module):
        def forward(self, x: Tensor, again: bool = True) -> Tensor:
            y = model(x)
            return y + self(x, again=False) if again else y

    twice = Twice()
    with Watch(training.clock, twice, training.optimizer):
        for _ in range(2):
            training.beat(torch.ones(1, 2), twice)
            training.optimizer.step()
    found = training.ticks()
    assert [tick["beats"] for tick in found] == [1, 1]
    two = {"forward": 2 * FORWARD, "backward": 2 * BACKWARD, "update": UPDATE}
    assert [tick["phases"] for tick in found] == [two] * 2


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_belongs_to_the_backward_pass(
    training: Training, use_reentrant: bool
) -> None:
    inner = training.model
    inner.form = torch.square  # needs what comes before it

    class Checkpointed(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return checkpoint(inner, x, use_reentrant=use_reentrant)

    outer = Checkpointed()
    with Watch(training.clock, outer, training.optimizer):
        for _ in range(2):
            training.beat(torch.ones(1, 2, requires_grad=True), outer)
            training.optimizer.step()
    again = {"forward": FORWARD, "backward": FORWARD + BACKWARD, "update": UPDATE}
    assert training.phases() == [again] * 2


def test_a_checkpoint_around_the_model(training: Training) -> None:
    training.model.form = torch.square
    with watch(training):
        for _ in range(2):
            checkpoint(training.model, torch.ones(1, 2), use_reentrant=False).sum().backward()
            training.optimizer.step()
    found = training.ticks()
    assert [tick["beats"] for tick in found] == [1, 1]
    again = {"forward": FORWARD, "backward": FORWARD + BACKWARD, "update": UPDATE}
    assert [tick["phases"] for tick in found] == [again] * 2


def test_two_forward_passes_for_one_backward_pass(training: Training) -> None:
    x = torch.ones(1, 2)
    with watch(training):
        (training.model(x) - training.model(2 * x)).sum().backward()
        training.optimizer.step()
    (tick,) = training.ticks()
    assert tick["beats"] == 2
    assert tick["phases"] == {"forward": 2 * FORWARD, "backward": 2 * BACKWARD, "update": UPDATE}


def test_the_same_graph_twice_and_a_gradient_of_a_gradient(training: Training) -> None:
    x = torch.ones(1, 2, requires_grad=True)
    with watch(training):
        y = training.model(x).sum()
        y.backward(retain_graph=True)
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        training.time.pass_(1)
        (y + gradient.square().sum()).backward()
        training.optimizer.step()
    (tick,) = training.phases()
    assert tick == {
        "forward": FORWARD, "backward": 3 * BACKWARD, "update": UPDATE, "unattributed": 1
    }  # fmt: skip


class Fail(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise OverflowError


def fail(x: Tensor) -> Tensor:
    raise OverflowError


@pytest.mark.parametrize("failing", [fail, Fail.apply], ids=["forward", "backward"])
def test_a_pass_that_fails_is_over(training: Training, failing: Callable[[Tensor], Tensor]) -> None:
    class Failing(nn.Module):
        fails = True

        def forward(self, x: Tensor) -> Tensor:
            return training.model(failing(x) if self.fails else x)

    model = Failing()
    x = torch.ones(1, 2, requires_grad=True)
    with Watch(training.clock, model, training.optimizer):
        for _ in range(2):
            model.fails = True
            with pytest.raises(OverflowError):
                training.beat(x, model)
            training.time.pass_(1_000)
            model.fails = False
            training.beat(x, model)
            training.optimizer.step()
    found = training.phases()
    assert [tick["unattributed"] for tick in found] == [1_000, 1_000]
    assert [tick["update"] for tick in found] == [UPDATE, UPDATE]


class Interrupt(nn.Module):
    """Ctrl-C in a notebook: the watch continues to exist."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.now = model, False

    def forward(self, x: Tensor) -> Tensor:
        if self.now:
            raise KeyboardInterrupt
        return self.model(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("with_loader", [True, False])
def test_after_an_interrupt_it_goes_on(training: Training, with_loader: bool) -> None:
    model = Interrupt(training.model)
    loader = training.loader if with_loader else None
    with Watch(training.clock, model, training.optimizer, loader):
        model.now = True
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(1, 2))
        model.now = False
        for x in training.loader:
            training.beat(x, model)
            training.optimizer.step()
    found = training.phases()
    assert [tick["update"] for tick in found] == [UPDATE] * 4
    seen = [tick.get("forward") for tick in found]
    assert seen[not with_loader :] == [FORWARD] * (3 + with_loader), "known at the next batch, step"
