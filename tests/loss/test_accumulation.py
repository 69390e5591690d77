"""Where the gradient of a weight goes: into `.grad`, or back to autograd."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from metronorm.errors import ConfigError
from metronorm.loss import linear_cross_entropy
from tests.loss.inputs import Case, case, far

if TYPE_CHECKING:
    from pathlib import Path

CHUNKS = [5, None]


class NewTensors(TorchDispatchMode):
    """Counts the memory that operators make for tensors of a shape."""

    def __init__(self, shape: torch.Size, known: Tensor | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shape, self.kept = shape, [] if known is None else [known]
        self.known = len(self.kept)

    @property
    def count(self) -> int:
        """Storages that were not there before; all are kept alive until here."""
        return len({each.untyped_storage().data_ptr() for each in self.kept}) - self.known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.shape == self.shape:
            self.kept.append(result)
        return result


def made(given: Case, *, known: Tensor | None) -> int:
    """Tensors of the weight's shape that its backward pass makes."""
    loss = given.loss()
    with NewTensors(given.weight.shape, known) as mode:
        loss.backward()
    return mode.count


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_leaf_has_its_gradient_added_in_place(chunk: int | None) -> None:
    given = case(chunk=chunk)
    want, total = given.want(), torch.ones_like(given.weight)
    given.weight.grad = total
    assert made(given, known=total) == 0
    assert given.weight.grad is total
    assert far(total - 1, want.weight) < 2e-6


@pytest.mark.parametrize("chunk", CHUNKS)
def test_without_a_grad_the_only_new_tensor_is_that(chunk: int | None) -> None:
    given = case(chunk=chunk)
    assert made(given, known=None) == 1
    assert far(given.weight.grad, given.want().weight) < 2e-6


@pytest.mark.parametrize("chunk", CHUNKS)
def test_autograd_grad_returns_gradients_and_leaves_grad_alone(chunk: int | None) -> None:
    given = case(chunk=chunk)
    want = given.want()
    given.weight.grad = before = torch.full_like(given.weight, 7.0)
    (alone,) = torch.autograd.grad(given.loss(), given.weight)
    of_features, of_weight = torch.autograd.grad(given.loss(), [given.features, given.weight])
    (only,) = torch.autograd.grad(given.loss(), given.features)
    assert given.weight.grad is before
    assert (before == 7).all()
    assert given.features.grad is None
    assert far(alone, want.weight) < 2e-6
    assert far(of_weight, want.weight) < 2e-6
    assert far(of_features, want.features) < 2e-6
    assert far(only, want.features) < 2e-6


def test_backward_for_some_inputs_reaches_only_these() -> None:
    given = case(bias=True)
    want = given.want()
    given.loss().backward(inputs=[given.features])
    assert given.weight.grad is None
    given.loss().backward(inputs=[given.weight])
    assert far(given.weight.grad, want.weight) < 2e-6
    assert far(given.features.grad, want.features) < 2e-6
    assert given.bias is not None
    assert given.bias.grad is None


@pytest.mark.parametrize("chunk", CHUNKS)
def test_backward_may_run_twice(chunk: int | None) -> None:
    given = case(chunk=chunk)
    want, loss = given.want(), given.loss()
    loss.backward(retain_graph=True)
    (3 * loss).backward()
    assert far(given.weight.grad, 4 * want.weight) < 2e-6
    assert far(given.features.grad, 4 * want.features) < 2e-6
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    assert far(given.weight.grad, 4 * want.weight) < 2e-6


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_in_activation_checkpoints(chunk: int | None, reentrant: bool) -> None:
    given = case(chunk=chunk, bias=True, weights=True)
    want = given.want()
    loss = checkpoint(lambda x: given.loss(), given.features * 1, use_reentrant=reentrant)
    assert isinstance(loss, Tensor)
    (2 * loss).backward()
    assert far(loss, want.loss) < 1e-6
    assert far(given.weight.grad, 2 * want.weight) < 2e-6
    assert far(given.features.grad, 2 * want.features) < 2e-6


def test_saved_tensors_may_be_moved_away() -> None:
    given = case(chunk=5)
    with torch.autograd.graph.save_on_cpu():
        loss = given.loss()
    loss.backward()
    assert far(given.weight.grad, given.want().weight) < 2e-6


def test_a_weight_that_has_changed_is_refused_as_by_torch() -> None:
    given = case()
    loss = given.loss()
    with torch.no_grad():
        given.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert given.weight.grad is None


def test_nothing_is_kept_after_backward() -> None:
    given = case()
    loss = given.loss()
    loss.backward()
    weak = weakref.ref(given.weight)
    del given, loss
    gc.collect()
    assert weak() is None


# --- tied weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("first", [True, False])
def test_a_tied_embedding_is_added_to_the_same_sum(chunk: int | None, first: bool) -> None:
    given = case(dtype=torch.float64, chunk=chunk)
    tokens = torch.arange(14).view(2, 7) % 5
    weight, plain = given.weight, given.weight.detach().clone().requires_grad_()
    for _ in range(1 if first else 2):
        x = nn.functional.embedding(tokens, weight).tanh()
        linear_cross_entropy(x, weight, given.targets, chunk=chunk).backward()
        x = nn.functional.embedding(tokens, plain).tanh()
        logits = nn.functional.linear(x, plain).flatten(0, 1)
        nn.functional.cross_entropy(logits, given.targets.flatten(), reduction="sum").backward()
    assert plain.grad is not None
    assert far(weight.grad, plain.grad) < 1e-14


def test_several_losses_of_one_weight_in_one_backward() -> None:
    given, other = case(), case(seed=1)
    other.weight = given.weight
    want = given.want().weight + other.want().weight
    (given.loss() + other.loss(chunk=5)).backward()
    assert far(given.weight.grad, want) < 2e-6


# --- who must see the whole gradient ------------------------------------------------------------


def test_hooks_that_change_gradients_are_obeyed() -> None:
    given = case()
    want = given.want()
    given.weight.register_hook(lambda gradient: 10 * gradient)
    assert made(given, known=None) > 0
    assert far(given.weight.grad, 10 * want.weight) < 2e-6


def test_a_hook_after_accumulation_sees_the_whole_gradient_once() -> None:
    """An optimizer's step in such a hook would otherwise be made with a part of a tied gradient."""
    given = case(dtype=torch.float64)
    weight, seen = given.weight, []

    def step(parameter: Tensor) -> None:
        seen.append(parameter.grad)
        parameter.grad = None

    weight.register_post_accumulate_grad_hook(step)
    tokens = torch.arange(14).view(2, 7)
    x = nn.functional.embedding(tokens, weight)
    linear_cross_entropy(x, weight, given.targets).backward()
    plain = weight.detach().clone().requires_grad_()
    logits = nn.functional.linear(nn.functional.embedding(tokens, plain), plain).flatten(0, 1)
    nn.functional.cross_entropy(logits, given.targets.flatten(), reduction="sum").backward()
    assert plain.grad is not None
    assert len(seen) == 1
    assert far(seen[0], plain.grad) < 1e-14


def test_a_hook_that_takes_parts_is_called_after_each() -> None:
    given, seen = case(), []

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        seen.append((parameter.grad.data_ptr(), far(parameter.grad, want)))

    hook.takes_parts = True  # type: ignore[attr-defined]
    want, given.weight.grad = given.want().weight, torch.zeros_like(given.weight)
    given.weight.register_post_accumulate_grad_hook(hook)
    given.loss().backward()
    assert all(pointer == given.weight.grad.data_ptr() for pointer, _ in seen)
    assert seen
    assert seen[0][1] < 2e-6


def test_a_weight_that_is_computed_is_no_leaf() -> None:
    given = case(dtype=torch.float64)
    want = given.want()
    linear_cross_entropy(given.features, 1 * given.weight, given.targets).backward()
    assert far(given.weight.grad, want.weight) < 1e-14
    layer = nn.Linear(8, 29, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(given.weight / 3)
    parametrize.register_parametrization(layer, "weight", Tripled())
    linear_cross_entropy(given.features, layer.weight, given.targets).backward()
    assert far(layer.parametrizations["weight"].original.grad, 3 * want.weight) < 1e-14


class Tripled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 3 * weight


def test_a_process_group_gets_gradients_from_autograd(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        given = case(dtype=torch.float64)
        want = given.want()
        given.weight.grad = total = torch.zeros_like(given.weight)
        assert made(given, known=total) > 0
        assert far(given.weight.grad, want.weight) < 1e-14
        model = nn.Module()
        model.weight = given.weight
        model.forward = lambda x, t: linear_cross_entropy(x, model.weight, t)  # type: ignore[method-assign]
        wrapped = nn.parallel.DistributedDataParallel(model)
        given.weight.grad = None
        wrapped(given.features.detach(), given.targets).backward()
        assert far(given.weight.grad, want.weight) < 1e-14
    finally:
        torch.distributed.destroy_process_group()


def test_a_gradient_in_half_precision_is_rounded_once() -> None:
    """Chunks are added in float32, and what autograd adds to `.grad` was rounded once."""
    given = case(512, dtype=torch.bfloat16, vocabulary=11, width=4, chunk=2)
    want = given.want()
    given.loss().backward()
    assert given.weight.grad is not None
    assert given.weight.grad.dtype == torch.bfloat16
    assert far(given.weight.grad, want.weight) < 2**-8


def test_a_float32_sum_of_a_half_precision_weight_is_added_to_in_place() -> None:
    given = case(dtype=torch.bfloat16)
    want = given.want()
    given.weight.grad_dtype = torch.float32
    for times in (1, 2):
        given.loss().backward()
        assert given.weight.grad is not None
        assert given.weight.grad.dtype == torch.float32
        assert far(given.weight.grad, times * want.weight) < 1e-5
    total = given.weight.grad
    assert made(given, known=total) == 0


# --- what is differentiated in other ways -------------------------------------------------------


def test_double_backward_is_refused() -> None:
    given = case()
    with pytest.raises(ConfigError, match=r"differentiated again; got create_graph=True"):
        torch.autograd.grad(given.loss(), given.weight, create_graph=True)
    with pytest.raises(ConfigError, match=r"differentiated again"):
        given.loss().backward(create_graph=True)
    assert given.weight.grad is None


ALL: dict[str, Any] = {
    "bias": True,
    "weights": True,
    "soft_cap": 3.0,
    "label_smoothing": 0.1,
    "z_loss": 0.01,
    "scale": 0.5,
}


def test_transforms_of_torch_func() -> None:
    given = case(dtype=torch.float64, **ALL)
    want = given.want()
    given.weight.grad = before = torch.zeros_like(given.weight)

    def loss(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(
            features, weight, given.targets, bias=bias, weights=given.weights, **given.options
        )

    assert given.bias is not None
    arguments = (given.features.detach(), given.weight.detach(), given.bias.detach())
    gradients = torch.func.grad(loss, argnums=(0, 1, 2))(*arguments)
    for found, wanted in zip(gradients, want[1:], strict=True):
        assert far(found, wanted) < 1e-13
    _, slope = torch.func.jvp(loss, arguments, tuple(map(torch.ones_like, arguments)))
    assert far(slope, sum(each.sum() for each in want[1:])) < 1e-12  # type: ignore[arg-type]
    many = torch.func.vmap(lambda scale: loss(scale * arguments[0], *arguments[1:]))
    assert far(many(torch.ones(3).double()), want.loss.expand(3)) < 1e-13
    assert given.weight.grad is before
    assert not before.any()


def test_rows_that_do_not_count_may_be_anything_in_a_transform() -> None:
    given = case(dtype=torch.float64, **ALL)
    want = given.want()
    assert given.weights is not None
    with torch.no_grad():
        given.features[(given.targets == -100) | (given.weights == 0)] = torch.nan
    found = torch.func.grad(
        lambda weight: linear_cross_entropy(
            given.features.detach(),
            weight,
            given.targets,
            bias=given.bias,
            weights=given.weights,
            **given.options,
        )
    )(given.weight.detach())
    assert far(found, want.weight) < 1e-13


def test_tensors_without_values_are_traced() -> None:
    loss = linear_cross_entropy(
        torch.empty(3, 4, device="meta"),
        torch.empty(5, 4, device="meta"),
        torch.empty(3, device="meta", dtype=torch.int64),
    )
    assert loss.is_meta
    assert loss.shape == ()


# torch hides this warning about its own compiler, but not where warnings are errors
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_calls_it_as_it_is() -> None:
    given = case(chunk=5)
    want = given.want()

    @torch.compile(backend="aot_eager")
    def run(x: Tensor) -> Tensor:
        return 2 * linear_cross_entropy(x * 1, given.weight, given.targets, chunk=5)

    given.weight.grad = total = torch.zeros_like(given.weight)
    loss = run(given.features)
    loss.backward()
    assert given.weight.grad is total
    assert far(loss, 2 * want.loss) < 1e-6
    assert far(total, 2 * want.weight) < 2e-6
    assert far(given.features.grad, 2 * want.features) < 2e-6
