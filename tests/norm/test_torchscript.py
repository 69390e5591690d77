"""The layers in torch's older ways to a graph: jit.trace, jit.script and fx, as torch's own layers.

Numbers are those of the layers themselves: to the bit, as the same operators run.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, fx, nn

from metronorm.errors import ConfigError
from metronorm.norm import (
    AddLayerNorm,
    AddRMSNorm,
    LayerNorm,
    LayerNorm2d,
    RMSNorm,
    add_layer_norm,
    add_rms_norm,
    fuse_residuals,
    layer_norm,
    layer_norm_2d,
    rms_norm,
)
from tests.norm.everything import WIDTH, Everything
from tests.norm.inputs import BF16, FP64, draw, draw_x, leaf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning"),  # fx causes it
]

LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {  # shape, number of inputs
    "LayerNorm": (lambda: LayerNorm(5), (3, 5), 1),
    "LayerNorm of two": (lambda: LayerNorm((4, 5)), (3, 4, 5), 1),
    "LayerNorm, no bias": (lambda: LayerNorm(5, bias=False), (3, 5), 1),
    "LayerNorm, no weight": (lambda: LayerNorm(5, elementwise_affine=False), (3, 5), 1),
    "LayerNorm2d": (lambda: LayerNorm2d(5), (3, 5, 2, 4), 1),
    "RMSNorm": (lambda: RMSNorm(5), (3, 5), 1),
    "RMSNorm without eps": (lambda: RMSNorm(5, eps=None), (3, 5), 1),
    "AddLayerNorm": (lambda: AddLayerNorm(5, dropout=0.4), (3, 5), 2),
    "AddRMSNorm": (lambda: AddRMSNorm(5, dropout=0.4), (3, 5), 2),
    "AddRMSNorm without eps": (lambda: AddRMSNorm(5, eps=None), (3, 5), 2),
}


def traced(layer: nn.Module, *inputs: Tensor) -> Any:
    return torch.jit.trace(layer, inputs, check_trace=not has_dropout(layer))


def traced_without_gradient(layer: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return traced(layer, *inputs)


def scripted(layer: nn.Module, *inputs: Tensor) -> Any:
    return torch.jit.script(layer)


def symbolic(layer: nn.Module, *inputs: Tensor) -> Any:
    return fx.symbolic_trace(layer)


def has_dropout(layer: nn.Module) -> bool:
    """Two runs differ because of dropout, which torch's own check reports as an error."""
    return any(getattr(each, "dropout", 0) and each.training for each in layer.modules())


WAYS = [traced, traced_without_gradient, scripted, symbolic]


def again(made: Any, path: Path) -> Any:
    """The model after saving and loading."""
    if isinstance(made, fx.GraphModule):
        return pickle.loads(pickle.dumps(made))
    torch.jit.save(made, path)
    return torch.jit.load(path)


def results(run: Callable[..., Any], layer: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and all gradients, with the same seed."""
    given = [leaf(x) for x in inputs]
    layer.zero_grad()
    torch.manual_seed(3)
    found = run(*given)
    outputs = list(found) if isinstance(found, tuple) else [found]
    sum(y.double().sin().sum() * (at + 1) for at, y in enumerate(outputs)).backward()
    slopes = [value.grad for value in (*given, *layer.parameters())]
    return [y.detach() for y in outputs] + [slope for slope in slopes if slope is not None]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_a_loaded_model_gives_the_same_bits(
    backend: str, name: str, way: Callable[..., Any], tmp_path: Path
) -> None:
    build, shape, count = LAYERS[name]
    layer = build()
    for value in layer.parameters():
        nn.init.normal_(value, 1.0, 0.3)
    made = again(way(layer, *(draw_x(shape, seed=at) for at in range(count))), tmp_path / "it.pt")
    for batch in (3, 7):
        inputs = [draw_x((batch, *shape[1:]), seed=4 + at) for at in range(count)]
        want = results(layer, layer, inputs)
        for got, each in zip(results(made, made, inputs), want, strict=True):
            assert torch.equal(got, each)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_layer_that_saves_its_output_may_keep_the_input(way: Callable[..., Any]) -> None:
    layer, x = LayerNorm(5, save="output"), draw_x((3, 5))
    made = way(layer, x)
    for got, want in zip(results(made, made, [x]), results(layer, layer, [x]), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "way", [traced, traced_without_gradient, symbolic], ids=lambda way: way.__name__
)
def test_a_model_of_all_layers_in_every_mode(way: Callable[..., Any], tmp_path: Path) -> None:
    for training in (True, False):
        model = Everything(dropout=0.4).train(training)
        made = again(way(model, draw_x((2, WIDTH))), tmp_path / "it.pt")
        x = draw_x((5, WIDTH))
        for got, want in zip(results(made, made, [x]), results(model, model, [x]), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_mixed_dtypes_and_layouts(way: Callable[..., Any]) -> None:
    layer = AddLayerNorm(5)
    inputs = [draw_x((3, 5), BF16), draw_x((3, 5), seed=1)]
    made = way(layer, *inputs)
    for got, want in zip(results(made, made, inputs), results(layer, layer, inputs), strict=True):
        assert (got.dtype, torch.equal(got, want)) == (want.dtype, True)
    image = draw_x((2, 5, 3, 3)).to(memory_format=torch.channels_last)
    made = way(LayerNorm2d(5), image)
    assert made(image).is_contiguous(memory_format=torch.channels_last)
    wide = RMSNorm(5, eps=None).double()
    x = draw((3, 5), FP64, scale=1e-8)
    assert torch.equal(way(wide, x)(x), wide(x))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_run_draws_a_new_mask(way: Callable[..., Any]) -> None:
    layer, ones, zeros = AddLayerNorm(64, dropout=0.5), torch.ones(1, 64), torch.zeros(1, 64)
    made = way(layer, ones, zeros)
    torch.manual_seed(0)
    first, second = made(ones, zeros)[1], made(ones, zeros)[1]
    assert not torch.equal(first, second)


def test_a_scripted_layer_has_modes_and_takes_no_residual() -> None:
    layer = torch.jit.script(AddRMSNorm(64, dropout=0.5))
    ones, zeros = torch.ones(1, 64), torch.zeros(1, 64)
    assert not torch.equal(layer(ones, zeros)[1], ones)
    assert torch.equal(layer.eval()(ones, zeros)[1], ones)
    assert torch.equal(layer(ones, None)[1], ones)
    frozen = torch.jit.freeze(layer)
    assert torch.equal(frozen(ones, zeros)[0], layer(ones, zeros)[0])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_eager_layer_does_not_change(way: Callable[..., Any]) -> None:
    model = nn.Sequential(LayerNorm(5), AddLayerNorm(5))
    kinds = [type(layer) for layer in model]
    way(model[0], draw_x((3, 5)))
    assert [type(layer) for layer in model] == kinds


def test_a_saved_layer_needs_only_the_operators(tmp_path: Path) -> None:
    """The loading process is another one."""
    layer, x = LayerNorm(5), draw_x((3, 5))
    torch.jit.save(torch.jit.trace(layer, x), tmp_path / "traced.pt")
    torch.jit.save(torch.jit.script(layer), tmp_path / "scripted.pt")
    torch.save((x, layer(x).detach()), tmp_path / "pair.pt")
    code = """
import sys, warnings, torch
warnings.simplefilter("ignore")
import metronorm.norm
x, y = torch.load(sys.argv[1] + "/pair.pt")
for name in ("traced", "scripted"):
    assert torch.equal(torch.jit.load(f"{sys.argv[1]}/{name}.pt")(x), y)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


# fx -----------------------------------------------------------------------------------------------


def test_a_norm_is_one_node_with_its_parameters_by_name() -> None:
    graph = fx.symbolic_trace(Everything()).graph
    calls = [node for node in graph.nodes if "normalize" in str(node.target)]
    assert len(calls) == 5
    names = {node.target for node in graph.nodes if node.op == "get_attr"}
    assert {"norm.weight", "norm.bias", "rms.weight", "add.weight", "image.weight"} <= names


def test_a_graph_can_be_copied_traced_again_and_scripted() -> None:
    model = Everything()
    graph = fx.symbolic_trace(model)
    x = draw_x((4, WIDTH))
    for made in (copy.deepcopy(graph), fx.symbolic_trace(graph)):
        assert torch.equal(made(x), model(x))
    layer = nn.Sequential(LayerNorm(WIDTH), nn.ReLU(), RMSNorm(WIDTH))
    assert torch.equal(torch.jit.script(fx.symbolic_trace(layer))(x), layer(x))


@pytest.mark.parametrize("fused", [True, False])
def test_separate_residual_adds_and_none(fused: bool) -> None:
    for layer in (AddLayerNorm(5), AddRMSNorm(5)):
        fuse_residuals(layer, fused)
        x, residual = draw_x((3, 5)), draw_x((3, 5), seed=1)
        made = fx.symbolic_trace(layer)
        assert all(map(torch.equal, made(x, residual), layer(x, residual)))
        alone = fx.symbolic_trace(layer, concrete_args={"residual": None})
        assert torch.equal(alone(x, None)[0], layer(x, None)[0])


def test_a_graph_reports_a_wrong_input_when_it_runs() -> None:
    with pytest.raises(ConfigError, match=r"x must end in the normalized shape \(5,\)"):
        fx.symbolic_trace(LayerNorm(5))(torch.ones(2, 4))
    with pytest.raises(ConfigError, match="four dimensions"):
        fx.symbolic_trace(LayerNorm2d(5))(torch.ones(2, 5))


# Wrong inputs -------------------------------------------------------------------------------------


def test_a_trace_with_a_wrong_input_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must end in the normalized shape \(5,\)"):
        torch.jit.trace(LayerNorm(5), torch.ones(2, 4))
    with pytest.raises(ConfigError, match="must be of one shape"):
        torch.jit.trace(AddLayerNorm(5), (torch.ones(2, 5), torch.ones(3, 5)))


@pytest.mark.parametrize("affine", [True, False])
def test_a_scripted_layer_reports_a_wrong_input(affine: bool) -> None:
    layer = torch.jit.script(RMSNorm((2, 4), elementwise_affine=affine))
    for shape in [(4, 2), (4,), (2, 4, 1), (2, 2, 2)]:
        with pytest.raises(torch.jit.Error, match="x must end in the normalized shape"):
            layer(torch.ones(shape))
    with pytest.raises(torch.jit.Error, match="four dimensions"):
        torch.jit.script(LayerNorm2d(4))(torch.ones(2, 4))


# Functions ----------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "layer_norm": lambda x, w: layer_norm(x, 5, w, w),
    "of its own size": lambda x, w: layer_norm(x, x.shape[-1:], w, save="output"),
    "rms_norm": lambda x, w: rms_norm(x, 5, w),
    "rms_norm without eps": lambda x, w: rms_norm(x, 5, w, None),
    "add_layer_norm": lambda x, w: add_layer_norm(x, x + 1, 5, w, w, dropout=0.3)[1],
    "add_rms_norm": lambda x, w: add_rms_norm(x, x + 1, 5, w)[0],
    "layer_norm_2d": lambda x, w: layer_norm_2d(x[..., None, None], w, w).sum((2, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_traced(name: str) -> None:
    function, x = FUNCTIONS[name], draw_x((3, 5))
    weight = leaf(draw((5,), seed=1))
    made = torch.jit.trace(function, (x, weight), check_trace=name != "add_layer_norm")
    for rows in (3, 6):
        x = draw_x((rows, 5), seed=rows)
        torch.manual_seed(1)
        want = function(x, weight)
        torch.manual_seed(1)
        assert torch.equal(made(x, weight), want)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_recorded_by_fx(name: str) -> None:
    function, x, weight = FUNCTIONS[name], draw_x((3, 5)), draw((5,), seed=1)

    class Model(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Any:
            return function(x, w)

    made = fx.symbolic_trace(Model())
    torch.manual_seed(1)
    want = function(x, weight)
    torch.manual_seed(1)
    assert torch.equal(made(x, weight), want)
