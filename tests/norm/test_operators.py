"""The operators together with the rest of torch: derivatives, compilers, transforms, processes.

What computes is run with every backend; what only traces is run once.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from metronorm.norm import AddLayerNorm, LayerNorm, layer_norm, layer_norm_2d, rms_norm
from tests.forked import Forks
from tests.norm.everything import WIDTH, Everything
from tests.norm.inputs import (
    BF16,
    FP16,
    FP32,
    FP64,
    KINDS,
    SAVES,
    Kind,
    apply,
    apply_add,
    draw,
    draw_affine,
    draw_x,
    leaf,
    on_threads,
    run,
)

OPS = torch.ops.metronorm
EPS = 1e-3


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def affine_of(kind: Kind, width: int = 5, dtype: torch.dtype = FP64) -> tuple[Tensor, ...]:
    """The weight, and the bias if the norm has one."""
    pair = draw_affine((width,), dtype, "both" if kind == "layer_norm" else "weight")
    return tuple(value for value in pair if value is not None)


# Derivatives --------------------------------------------------------------------------------------


def naive(kind: Kind, x: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    d = x - x.mean(-1, keepdim=True) if kind == "layer_norm" else x
    return d / (d.square().mean(-1, keepdim=True) + EPS).sqrt() * weight + bias


def norm_of(kind: Kind, save: Any) -> Callable[..., Tensor]:
    return lambda x, weight, bias=None: apply(kind, x, weight, bias, 1, EPS, save)


def add_of(kind: Kind, save: Any, dropout: float) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        torch.manual_seed(5)
        return apply_add(kind, x, residual, weight, bias, 1, EPS, save, dropout)

    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
def test_gradcheck(backend: str, save: Any, kind: Kind) -> None:
    given = [leaf(value) for value in (draw_x((2, 3), FP64), *affine_of(kind, 3))]
    run = norm_of(kind, save)
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)
    given[1].requires_grad_(False)
    assert torch.autograd.gradgradcheck(run, given)
    assert torch.autograd.gradgradcheck(lambda x: apply(kind, x, eps=EPS, save=save), given[:1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradcheck_of_add(backend: str, dropout: float, save: Any, kind: Kind) -> None:
    values = draw_x((2, 3), FP64), draw_x((2, 3), FP64, 4), *affine_of(kind, 3)
    given = [leaf(value) for value in values]
    run = add_of(kind, save, dropout)
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


@pytest.mark.parametrize("save", SAVES)
def test_gradcheck_of_images(backend: str, save: Any) -> None:
    x = draw_x((1, 3, 2, 1), FP64)
    for laid in (x, x.to(memory_format=torch.channels_last)):
        given = [leaf(value) for value in (laid, *draw_affine((3,), FP64))]
        run = lambda *args: layer_norm_2d(*args, EPS, save=save)  # noqa: E731
        assert torch.autograd.gradcheck(run, given)
        assert torch.autograd.gradgradcheck(run, given)


def third(run: Callable[..., Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
    """A third derivative that mixes all inputs."""
    (first,) = torch.autograd.grad(run(*given).sin().sum(), given[:1], create_graph=True)
    second = torch.autograd.grad(first.exp().sum(), given, create_graph=True)
    return torch.autograd.grad(sum(each.cos().sum() for each in second), given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
def test_third_derivative(backend: str, save: Any, kind: Kind) -> None:
    given = [leaf(value) for value in (draw_x((3, 5), FP64), *affine_of(kind))]
    want = third(lambda *args: naive(kind, *args), given)
    got = third(norm_of(kind, save), given)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_third_derivative_of_add(backend: str, dropout: float, save: Any, kind: Kind) -> None:
    values = draw_x((3, 5), FP64), draw_x((3, 5), FP64, 4), *affine_of(kind)
    given = [leaf(value) for value in values]
    run = add_of(kind, save, dropout)
    ones = torch.ones(3, 5, dtype=FP64)
    mask = run(ones, 0 * ones, *values[2:])[1]

    def plain(x: Tensor, residual: Tensor, *affine: Tensor) -> Tensor:
        summed = residual + x * mask
        return naive(kind, summed, *affine) * summed

    def ours(*args: Tensor) -> Tensor:
        normed, summed = run(*args)
        return normed * summed

    for got, want in zip(third(ours, given), third(plain, given), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("dtypes", [(BF16, FP32), (FP16, FP32), (BF16, BF16)])
def test_second_derivatives_of_mixed_dtypes(
    backend: str, dtypes: tuple[torch.dtype, ...], save: Any, kind: Kind
) -> None:
    values = draw_x((3, 5), dtypes[0]), draw_x((3, 5), dtypes[1], 4)
    values = *values, *affine_of(kind, dtype=dtypes[1])
    run = add_of(kind, save, 0.4)
    results = []
    for wide in (False, True):
        given = [leaf(value.double() if wide else value) for value in values]
        normed, summed = run(*given)
        first = torch.autograd.grad((normed.double() * summed).sum(), given[:2], create_graph=True)
        found = torch.autograd.grad(sum(each.double().square().sum() for each in first), given)
        results.append(found)
    for got, want, value in zip(*results, values, strict=True):
        assert got.dtype == value.dtype
        scale = want.abs().max().item()
        torch.testing.assert_close(got.double(), want, rtol=0.05, atol=0.05 * scale)


# torch.library ------------------------------------------------------------------------------------


def arguments(dtype: torch.dtype, save_output: bool, laid: bool) -> dict[str, tuple[Any, ...]]:
    """The arguments of one or more calls of every operator."""
    weight, bias = map(leaf, draw_affine((5,), FP32))
    x, residual, dy = (
        draw_x((2, 3, 5), dtype),
        draw_x((2, 3, 5), FP32, 4),
        draw((2, 3, 5), dtype, 7),
    )
    x, residual, dy = (leaf(v.transpose(0, 1) if laid else v) for v in (x, residual, dy))
    affine = weight, bias, 1, EPS, not laid, save_output
    none = weight, None, 1, EPS, not laid, False
    y, stats = OPS.norm(x, *affine)
    saved, stats = leaf((y if save_output else x).detach()), leaf(stats.detach())
    last = (dtype, 0.0, None, True, True)
    drawn = (FP32, 0.4, torch.tensor(7), True, False)
    summed = leaf((x if save_output else residual).detach().clone())
    return {
        "norm": (x, *affine),
        "norm without bias": (x, *none),
        "norm of two dims": (x, None, None, 2, EPS, True, save_output),
        "add_norm": (x, residual, *affine, 0.0, None),
        "add_norm with dropout": (x, residual, *affine, 0.4, torch.tensor(7)),
        "norm_backward": (dy, None, saved, stats, *affine, *last),
        "norm_backward of a sum": (dy, residual, summed, stats, *affine, *drawn),
    }


CALLS = list(arguments(FP32, False, False))


@pytest.mark.parametrize(
    ("dtype", "save", "laid"), [(FP32, False, False), (FP32, True, True), (BF16, True, False)]
)
@pytest.mark.parametrize("call", CALLS)
def test_opcheck(call: str, dtype: torch.dtype, save: bool, laid: bool) -> None:
    operator = getattr(OPS, call.split()[0]).default
    torch.library.opcheck(operator, arguments(dtype, save, laid)[call])


@pytest.mark.parametrize("call", CALLS)
def test_schema_and_fake_of_every_backend(backend: str, call: str) -> None:
    operator = getattr(OPS, call.split()[0]).default
    for dtype, save, laid in itertools.product((FP32, BF16, FP16), (False, True), (False, True)):
        given = arguments(dtype, save, laid)[call]
        torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("call", CALLS)
def test_meta_tensors_have_the_shape_of_the_result(backend: str, call: str) -> None:
    operator = getattr(OPS, call.split()[0]).default
    given = arguments(FP32, False, True)[call]
    away = [value.to("meta") if isinstance(value, Tensor) else value for value in given]
    for real, meta in zip(operator(*given), operator(*away), strict=True):
        assert (real.shape, real.dtype) == (meta.shape, meta.dtype)


# Compilers ----------------------------------------------------------------------------------------


def steps(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Output and all gradients, from the same seed."""
    torch.manual_seed(3)
    model.zero_grad()
    x = leaf(x)
    y = run(x)
    y.sin().sum().backward()
    return [y.detach(), x.grad, *(weight.grad.clone() for weight in model.parameters())]


def assert_compiled(model: nn.Module, backend: str, dynamic: bool | None) -> None:
    run = torch.compile(model, fullgraph=True, backend=backend, dynamic=dynamic)
    for batch in (4, 6, 3):
        x = draw_x((batch, WIDTH))
        for got, want in zip(steps(model, run, x), steps(model, model, x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("dropout", "save", "dynamic"),
    [(0.0, "input", True), (0.4, "input", None), (0.4, "output", True)],
)
def test_compiled_whole(dropout: float, save: Any, dynamic: bool | None) -> None:
    assert_compiled(Everything(dropout, save), "aot_eager", dynamic)


@pytest.mark.usefixtures("compiler")
@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    assert_compiled(Everything(), "inductor", dynamic=True)


@pytest.mark.usefixtures("compiler")
def test_one_graph_for_every_batch() -> None:
    layer, graphs = LayerNorm(5), []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    run = torch.compile(layer, fullgraph=True, backend=count, dynamic=True)
    for batch in (2, 7, 40):
        assert torch.equal(run(draw_x((batch, 5))), layer(draw_x((batch, 5))))
    assert len(graphs) == 1
    assert OPS.norm.default in graphs[0]


@pytest.mark.usefixtures("compiler")
def test_functions_are_compiled_with_sizes_and_eps_as_arguments() -> None:
    def both(x: Tensor, size: int, eps: float) -> Tensor:
        return layer_norm(x, size, eps=eps) + rms_norm(x, x.shape[-1:], eps=eps)

    run = torch.compile(both, fullgraph=True, backend="aot_eager")
    for size, eps in ((5, 1e-5), (7, 1e-3), (9, 1)):  # from the second call on they are symbols
        x = draw_x((3, size))
        torch.testing.assert_close(run(x, size, eps), both(x, size, eps))
    graph = make_fx(both, tracing_mode="symbolic")(draw_x((3, 5)), 5, 1e-5)
    assert graph(draw_x((4, 5)), 5, 1e-5).shape == (4, 5)


@pytest.mark.parametrize("training", [False, True])
def test_exported(training: bool) -> None:
    model = Everything(dropout=0.4, save="output").train(training)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (draw_x((4, WIDTH)),), dynamic_shapes=((batch, None),))
    targets = {node.target for node in exported.graph.nodes}
    assert {OPS.norm.default, OPS.add_norm.default} <= targets
    run = exported.module()
    for size in (4, 9):
        x = draw_x((size, WIDTH))
        torch.manual_seed(3)
        want = model(x)
        torch.manual_seed(3)
        torch.testing.assert_close(run(x), want)


# Modes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [BF16, FP16])
def test_autocast_changes_nothing(backend: str, narrow: torch.dtype) -> None:
    given = [leaf(value) for value in (draw_x((3, 5)), *draw_affine((5,)))]
    half = leaf(draw_x((3, 5), narrow))
    for x in (given[0], half):
        results = []
        for enabled in (False, True):
            with torch.autocast("cpu", dtype=narrow, enabled=enabled):
                y = apply("layer_norm", x, *given[1:])
                found = apply_add("layer_norm", x, given[0], *given[1:])
                assert vmap(lambda row: apply("layer_norm", row, *given[1:]))(x).dtype == x.dtype
            assert (y.dtype, found[0].dtype, found[1].dtype) == (x.dtype, x.dtype, FP32)
            loss = y.float().square().sum() + found[0].float().sum()
            results.append((y, *found, *torch.autograd.grad(loss, [x, *given[1:]])))
        assert all(map(torch.equal, *results))


def test_a_layer_can_be_trained_after_inference_mode(backend: str) -> None:
    layer, x = LayerNorm(5), draw_x((3, 5))
    with torch.inference_mode():
        y = layer(x)
    assert torch.equal(layer(x), y)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.fixture
def strictly() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("strictly")
@pytest.mark.parametrize("count", [1, 2])
def test_two_runs_give_the_same_bits(backend: str, count: int) -> None:
    if backend == "torch" and count > 1:
        pytest.skip("torch divides its work differently from call to call")
    for shape in ((700, 97), (2, 70_001)):
        weight, bias = draw_affine(shape[1:])
        x, residual = draw_x(shape), draw_x(shape, seed=4)
        results = []
        for _ in range(3):
            given = [leaf(value) for value in (x, residual, weight, bias)]
            torch.manual_seed(5)
            with on_threads(count):
                found = apply_add("layer_norm", *given, dropout=0.3)
                torch.autograd.backward(found, (x, residual))
            results.append([*found, *(value.grad for value in given)])
        for first, *others in zip(*results, strict=True):
            assert all(torch.equal(first, other) for other in others)


def test_many_python_threads_at_once(backend: str) -> None:
    shapes = [(3, 5), (40, 64), (7, 1000), (5, 17)] * 4
    given = [(draw_x(shape), *draw_affine(shape[1:])) for shape in shapes]

    def work(values: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return run("layer_norm", *values, dy=draw(tuple(values[0].shape), seed=7))

    alone = [work(values) for values in given]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(work, given), alone, strict=True):
            assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_draws_the_same_mask(backend: str, reentrant: bool) -> None:
    model, x = Everything(dropout=0.4), draw_x((5, WIDTH))
    again = lambda value: checkpoint(model, value, use_reentrant=reentrant)  # noqa: E731
    for got, want in zip(steps(model, again, x), steps(model, model, x), strict=True):
        assert torch.equal(got, want)


# Transforms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_vmap(kind: Kind) -> None:
    x, affine = draw_x((4, 3, 5), FP64), affine_of(kind)
    want = apply(kind, x, *affine)
    torch.testing.assert_close(vmap(lambda row: apply(kind, row, *affine))(x), want)
    moved = vmap(lambda row: apply(kind, row, *affine), in_dims=1, out_dims=1)(x)
    torch.testing.assert_close(moved, want)
    many = [torch.stack([value * (1 + at) for at in range(4)]) for value in affine]
    got = vmap(lambda row, *own: apply(kind, row, *own))(x, *many)
    each = [apply(kind, row, *own) for row, *own in zip(x, *many, strict=True)]
    torch.testing.assert_close(got, torch.stack(each))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
def test_func(save: Any, kind: Kind) -> None:
    given = [draw_x((3, 5), FP64), *affine_of(kind)]
    every = tuple(range(len(given)))

    def ours(*args: Tensor) -> Tensor:
        return norm_of(kind, save)(*args).sin().sum()

    def plain(*args: Tensor) -> Tensor:
        return naive(kind, *args).sin().sum()

    slopes = tuple(draw(tuple(value.shape), FP64, 30) for value in given)
    for transform in (
        lambda f: grad(f, argnums=every)(*given),
        lambda f: jacrev(f, argnums=every)(*given),
        lambda f: jvp(f, tuple(given), slopes),
        lambda f: [part for row in hessian(f, argnums=every)(*given) for part in row],
        lambda f: [jacrev(hessian(f))(*given)],
    ):
        for got, want in zip(transform(ours), transform(plain), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_dropout_under_transforms() -> None:
    x, residual = draw_x((4, 3, 5), FP64), draw_x((4, 3, 5), FP64, 4)
    run = lambda *args: apply_add("layer_norm", *args, dropout=0.4)[1]  # noqa: E731
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    masks = vmap(run, randomness="same")(ones, zeros)
    assert torch.equal(masks, masks[:1].expand_as(masks))
    masks = vmap(run, randomness="different")(ones, zeros)
    assert not torch.equal(masks[0], masks[1])
    torch.manual_seed(5)
    want = run(ones, zeros)
    torch.manual_seed(5)
    slope = grad(lambda value: run(value, residual).sum())(x)
    torch.testing.assert_close(slope, want)


def test_gradients_per_sample() -> None:
    model, x = Everything(), draw_x((6, WIDTH))
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(weights: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, weights, (sample.unsqueeze(0),)).sin().sum()

    got = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for at in range(6):
        model.zero_grad()
        model(x[at : at + 1]).sin().sum().backward()
        for name, value in model.named_parameters():
            torch.testing.assert_close(got[name][at], value.grad, rtol=1e-4, atol=1e-5)


def test_batched_gradients(backend: str) -> None:
    x = leaf(draw_x((3, 5), FP64))
    y = apply("layer_norm", x, *affine_of("layer_norm"))
    basis = torch.eye(15, dtype=FP64).view(15, 3, 5)
    (got,) = torch.autograd.grad(y, x, basis, is_grads_batched=True, retain_graph=True)
    want = [torch.autograd.grad(y, x, slope, retain_graph=True)[0] for slope in basis]
    torch.testing.assert_close(got, torch.stack(want))


class Tagged(Tensor):
    """A subclass of Tensor, as other libraries have them."""


@pytest.mark.parametrize("save", SAVES)
def test_subclasses(backend: str, save: Any) -> None:
    plain = leaf(draw_x((3, 5)))
    apply("layer_norm", plain, save=save).sin().sum().backward()
    tagged = draw_x((3, 5)).as_subclass(Tagged).requires_grad_()
    y = apply("layer_norm", tagged, save=save)
    assert type(y) is Tagged
    y.sin().sum().backward()
    assert torch.equal(tagged.grad.as_subclass(Tensor), plain.grad)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script, inside of torch
@pytest.mark.parametrize("without", [contextlib.nullcontext, torch.no_grad])
def test_dual_numbers_are_differentiated(without: Any) -> None:
    x, tangent = draw_x((3, 5), FP64), draw((3, 5), FP64, 7)
    _, want = jvp(lambda value: apply("layer_norm", value), (x,), (tangent,))
    with forward_ad.dual_level(), without():
        y = apply("layer_norm", forward_ad.make_dual(x, tangent))
        got = forward_ad.unpack_dual(y).tangent
    assert got is not None
    torch.testing.assert_close(got, want)


# Copies and processes -----------------------------------------------------------------------------


def test_deepcopy(backend: str) -> None:
    model = Everything(dropout=0.4, save="output")
    x = draw_x((5, WIDTH))
    before = steps(model, model, x)
    twin = copy.deepcopy(model)
    for got, want in zip(steps(twin, twin, x), before, strict=True):
        assert torch.equal(got, want)
    nn.init.zeros_(twin.norm.weight)
    assert model.norm.weight.all()
    for got, want in zip(steps(model, model, x), before, strict=True):
        assert torch.equal(got, want)


def test_a_conversion_converts_everything(backend: str) -> None:
    layer = AddLayerNorm(5, dropout=0.2).double()
    x = leaf(draw_x((3, 5), FP64))
    normed, _ = layer(x, x)
    normed.sum().backward()
    assert normed.dtype == layer.weight.grad.dtype == FP64


SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp", "changed"])
def test_two_processes_compute_the_same_as_one(
    how: str, ranks_of_torch: Forks, tmp_path: Path
) -> None:
    ranks_of_torch.run_together(
        [[str(SCRIPT), how, str(rank), str(tmp_path / "store")] for rank in range(2)], seconds=120
    )
