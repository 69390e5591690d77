"""Residual add and norm, compared with the equations; test_dropout.py tests dropout itself."""

from typing import Any

import pytest
import torch
from torch import nn

from metronorm.norm import (
    AddLayerNorm,
    AddRMSNorm,
    LayerNorm,
    RMSNorm,
    add_layer_norm,
    add_rms_norm,
    fuse_residuals,
)
from tests.norm.inputs import (
    ADD_MIXES,
    AFFINE,
    BF16,
    FP32,
    FP64,
    KINDS,
    SAVES,
    WIDTHS,
    Kind,
    apply_add,
    check_add,
    draw,
    draw_affine,
    draw_x,
    leaf,
)

MODULES = {"layer_norm": (AddLayerNorm, LayerNorm), "rms_norm": (AddRMSNorm, RMSNorm)}
FUNCTIONS = {"layer_norm": add_layer_norm, "rms_norm": add_rms_norm}


RUNS: Any = ((0, "output"), (1, "input"), (3, "output"), (33, "input"))


def affine_of(kind: Kind) -> str:
    return "both" if kind == "layer_norm" else "weight"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mix", ADD_MIXES)
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_the_equation(backend: str, width: int, mix: str, kind: Kind) -> None:
    dtypes = ADD_MIXES[mix]
    weight, bias = draw_affine((width,), dtypes.weight, affine_of(kind))
    for rows, save in RUNS:
        x = draw_x((rows, width), dtypes.x)
        residual = draw_x((rows, width), dtypes.residual, 4)
        check_add(kind, x, residual, weight, bias, save=save)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mix", ADD_MIXES)
@pytest.mark.parametrize("width", [1, 2, 7, 17, 64, 1023])
def test_with_dropout(backend: str, width: int, mix: str, kind: Kind) -> None:
    dtypes = ADD_MIXES[mix]
    weight, bias = draw_affine((width,), dtypes.weight, affine_of(kind))
    for rows, save, dropout in ((5, "input", 0.3), (5, "output", 0.3), (1, "input", 0.9)):
        x = draw_x((rows, width), dtypes.x)
        residual = draw_x((rows, width), dtypes.residual, 4)
        check_add(kind, x, residual, weight, bias, save=save, dropout=dropout)


@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("dtypes", [(FP32, FP32), (BF16, FP32), (BF16, BF16)])
def test_options(backend: str, affine: str, dtypes: Any) -> None:
    for dims, shape in ((1, (3, 100)), (2, (4, 3, 5)), (3, (2, 3, 4, 5)), (2, (6, 7))):
        x, residual = draw_x(shape, dtypes[0]), draw_x(shape, dtypes[1], 4)
        weight, bias = draw_affine(shape[-dims:], dtypes[0], affine)
        for save in SAVES:
            for eps, dropout in ((1e-12, 0.0), (0.5, 0.4)):
                options = {"dims": dims, "eps": eps, "save": save, "dropout": dropout}
                check_add("layer_norm", x, residual, weight, bias, **options)
                if bias is None:
                    check_add("rms_norm", x, residual, weight, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("save", SAVES)
def test_either_result_may_be_ignored(backend: str, save: Any, dropout: float, kind: Kind) -> None:
    x, residual = draw_x((3, 17), BF16), draw_x((3, 17), FP32, 4)
    weight, _ = draw_affine((17,))
    slopes = draw((3, 17), BF16, 7), draw((3, 17), FP32, 8)
    gradients = []
    for used in ((0,), (1,), (0, 1)):
        leaves = [leaf(value) for value in (x, residual, weight)]
        torch.manual_seed(5)
        found = apply_add(kind, *leaves, save=save, dropout=dropout)
        torch.autograd.backward([found[at] for at in used], [slopes[at] for at in used])
        gradients.append(
            [torch.zeros_like(v) if v.grad is None else v.grad.double() for v in leaves]
        )
    for normed, summed, both in zip(*gradients, strict=True):
        torch.testing.assert_close(normed + summed, both, rtol=1e-2, atol=1e-2)
    assert not gradients[1][2].any()
    assert torch.equal(gradients[1][1], slopes[1].double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", ["x", "residual", "weight"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_only_inputs_that_require_a_gradient_get_one(
    backend: str, dropout: float, wanted: str, kind: Kind
) -> None:
    weight, _ = draw_affine((17,))
    given = {"x": draw_x((3, 17)), "residual": draw_x((3, 17), seed=4), "weight": weight}
    full = check_add(kind, **given, dropout=dropout)
    given[wanted].requires_grad_()
    torch.manual_seed(5)
    found = apply_add(kind, *given.values(), dropout=dropout)
    torch.autograd.backward(found, (draw((3, 17), seed=7), draw((3, 17), seed=8)))
    for name, value in given.items():
        if name == wanted:
            assert torch.equal(value.grad, full[f"d{name}"])
        else:
            assert value.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_x_and_residual_get_separate_gradients(backend: str, kind: Kind) -> None:
    x, residual = leaf(draw_x((3, 17))), leaf(draw_x((3, 17), seed=4))
    normed, summed = apply_add(kind, x, residual)
    (normed.square().sum() + summed.sum()).backward()
    assert torch.equal(x.grad, residual.grad)
    x.grad.zero_()
    assert residual.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_x_and_residual_may_be_the_same_tensor(backend: str, kind: Kind) -> None:
    x = leaf(draw_x((3, 17)))
    apply_add(kind, x, x)[0].backward(draw((3, 17), seed=7))
    twin = check_add(kind, x.detach(), x.detach(), dsummed=torch.zeros(3, 17))
    torch.testing.assert_close(x.grad, 2 * twin["dx"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
def test_module_function_and_two_steps_agree(backend: str, save: Any, kind: Kind) -> None:
    made, plain = MODULES[kind]
    layer, separate = made((3, 5), 1e-2, save=save), plain((3, 5), 1e-2)
    for weight in layer.parameters():
        nn.init.normal_(weight)
    separate.load_state_dict(layer.state_dict())
    x, residual = draw_x((4, 3, 5)), draw_x((4, 3, 5), seed=4)
    normed, summed = layer(x, residual)
    again = FUNCTIONS[kind](x, residual, (3, 5), *layer.parameters(), eps=1e-2)
    assert torch.equal(normed, again[0])
    assert torch.equal(summed, again[1])
    assert torch.equal(summed, x + residual)
    torch.testing.assert_close(normed, separate(x + residual))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AddLayerNorm(6), nn.LayerNorm(6)),
        (AddLayerNorm(6, bias=False), nn.LayerNorm(6, bias=False)),
        (AddLayerNorm(6, elementwise_affine=False), nn.LayerNorm(6, elementwise_affine=False)),
        (AddRMSNorm(6), nn.RMSNorm(6)),
        (AddRMSNorm(6, elementwise_affine=False), nn.RMSNorm(6, elementwise_affine=False)),
    ],
)
def test_the_state_dict_is_the_same_as_in_torch(ours: nn.Module, theirs: nn.Module) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    for name, value in nn.ModuleDict({"layer": theirs}).state_dict().items():
        assert torch.equal(value, ours.state_dict()[name.removeprefix("layer.")])


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_residual_x_is_the_stream(backend: str, kind: Kind) -> None:
    made, plain = MODULES[kind]
    layer, alone = made(17, dropout=0.9), plain(17)
    x = leaf(draw_x((3, 17)))
    normed, summed = layer(x, None)
    assert torch.equal(normed, alone(x))
    assert summed is x
    normed.backward(draw((3, 17), seed=7))
    got, x.grad = x.grad, None
    alone(x).backward(draw((3, 17), seed=7))
    assert torch.equal(got, x.grad)


@pytest.mark.parametrize("mix", ADD_MIXES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", SAVES)
def test_separate_add_and_norm_give_the_same(backend: str, save: Any, kind: Kind, mix: str) -> None:
    dtypes = ADD_MIXES[mix]
    layer = MODULES[kind][0](17, dtype=dtypes.weight, save=save)
    weight, bias = draw_affine((17,), dtypes.weight)
    layer.load_state_dict(dict(zip(layer.state_dict(), (weight, bias), strict=False)))
    results = []
    for fused in (True, False):
        assert fuse_residuals(nn.Sequential(layer), fused) == 1
        layer.zero_grad()
        x, residual = leaf(draw_x((9, 17), dtypes.x)), leaf(draw_x((9, 17), dtypes.residual, 4))
        found = layer(x, residual)
        torch.autograd.backward(found, (draw((9, 17), dtypes.x, 7), residual.detach()))
        gradients = [value.grad for value in (x, residual, *layer.parameters())]
        results.append([*(each.detach() for each in found), *gradients])
    for separate, fused in zip(*results, strict=True):
        assert separate.dtype == fused.dtype
        scale = fused.double().abs().max().item()
        size = 2 if save == "input" else 8
        unit = torch.finfo(dtypes.x).eps * size
        torch.testing.assert_close(separate.double(), fused.double(), rtol=unit, atol=unit * scale)
    if save == "input":
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


def test_separate_add_has_dropout_too() -> None:
    model = nn.ModuleList([AddLayerNorm(500, dropout=0.5), AddRMSNorm(500, dropout=0.5)])
    assert fuse_residuals(model, False) == 2
    for layer in model:
        _, summed = layer(torch.ones(40, 500), torch.zeros(40, 500))
        assert 0.45 < (summed == 2.0).double().mean() < 0.55
        _, summed = layer.eval()(torch.ones(40, 500), torch.zeros(40, 500))
        assert (summed == 1.0).all()


def test_eps_none_uses_the_dtype_of_the_residual(backend: str) -> None:
    x, residual = draw((3, 5), BF16, scale=1e-3), draw((3, 5), FP32, 4, scale=1e-3)
    layer = AddRMSNorm(5, None)
    want = add_rms_norm(x, residual, 5, layer.weight, torch.finfo(FP32).eps)
    assert torch.equal(layer(x, residual)[0], want[0])
    layer = AddRMSNorm(5, None, dtype=FP64)
    want = add_rms_norm(x.double(), x.double(), 5, layer.weight, torch.finfo(FP64).eps)
    assert torch.equal(layer(x.double(), x.double())[0], want[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_are_the_same_without_gradients(backend: str, kind: Kind) -> None:
    layer = MODULES[kind][0](17, save="output")
    x, residual = draw_x((3, 17)), draw_x((3, 17), seed=4)
    found = layer(x, residual)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert all(map(torch.equal, layer(x, residual), found))


@pytest.mark.parametrize("made", [AddLayerNorm, AddRMSNorm])
def test_device_and_dtype_reach_the_parameters(made: Any) -> None:
    layer = made(4, device="meta", dtype=BF16)
    assert {(w.device.type, w.dtype) for w in layer.parameters()} == {("meta", BF16)}
