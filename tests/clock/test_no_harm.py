"""Everything else that torch does with models works as without a watch."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.clock.hooks import Watch

from .training import BACKWARD, FORWARD, UPDATE, Pass, Training


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "run")


def in_place(model: nn.Module, **options: Any) -> nn.Module:
    model.compile(**options)
    return model


@pytest.fixture
def small(training: Training) -> Iterator[nn.Module]:
    """A model that torch.compile compiles without a break."""
    yield nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    torch._dynamo.reset()


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("how", [torch.compile, in_place], ids=["wrapped", "in place"])
def test_a_compiled_model(
    training: Training, small: nn.Module, how: Callable[..., nn.Module], fullgraph: bool
) -> None:
    def backend(graph: Any, inputs: object) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            training.time.pass_(FORWARD)
            return graph(*args)

        return run

    def backward(gradient: Tensor) -> None:
        training.time.pass_(BACKWARD)

    model = how(small, backend=backend, fullgraph=fullgraph)
    compiled = model._compiled_call_impl
    with Watch(training.clock, model, training.optimizer):
        for _ in range(2):
            x = torch.ones(1, 2, requires_grad=True)
            x.register_hook(backward)
            training.beat(x, model)
            training.optimizer.step()
    assert model._compiled_call_impl is compiled
    assert training.phases() == [{"forward": FORWARD, "backward": BACKWARD, "update": UPDATE}] * 2


@pytest.mark.parametrize("fullgraph", [False, True])
def test_hooks_are_left_out_of_compiled_code(
    training: Training, small: nn.Module, fullgraph: bool
) -> None:
    with Watch(training.clock, small, training.optimizer):
        expected = small(torch.ones(1, 2))
        for each in (
            torch.compile(small, backend="eager", fullgraph=fullgraph),
            torch.compile(lambda x: small(x), backend="eager", fullgraph=fullgraph),
            in_place(small, backend="eager", fullgraph=fullgraph),
        ):
            assert torch.equal(each(torch.ones(1, 2)), expected)
    training.clock.close()


def test_copies_of_a_model_are_not_watched(training: Training) -> None:
    model = nn.Linear(2, 1)
    with Watch(training.clock, model, training.optimizer):
        copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        for each in (model, copied, pickled):
            training.beat(torch.ones(1, 2), each)
        training.optimizer.step()
    assert [tick["beats"] for tick in training.ticks()] == [1]


def test_transforms_of_functions(training: Training) -> None:
    model = nn.Linear(2, 1)
    parameters = dict(model.named_parameters())
    x = torch.ones(5, 2)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, x).square().sum()

    def everything() -> list[Tensor]:
        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        return [
            *per_sample.values(),
            torch.func.jacrev(model)(x[0]),
            torch.func.hessian(lambda x: model(x).square().sum())(x[0]),
            torch.func.jvp(model, (x,), (x,))[1],
            torch.jit.trace(model, x)(x),
            torch.export.export(model, (x,)).module()(x),
            torch.fx.symbolic_trace(model)(x),
        ]

    expected = everything()
    with Watch(training.clock, model):
        found = everything()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    training.clock.close()


def test_gradients_are_the_same(training: Training) -> None:
    x = torch.ones(1, 2)

    def gradient() -> Tensor:
        training.model.zero_grad()
        Pass.apply(training.model(x), training.time).square().sum().backward()
        found = training.model.linear.weight.grad
        assert found is not None
        return found.clone()

    expected = gradient()
    with Watch(training.clock, training.model):
        assert torch.equal(gradient(), expected)
    training.clock.close()
