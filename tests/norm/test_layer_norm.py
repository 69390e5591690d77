"""`LayerNorm` and `layer_norm` against the equation, in every dtype and with every backend."""

from typing import Any

import pytest
import torch
from torch import nn

from metronorm.norm import LayerNorm, layer_norm
from tests.norm.inputs import (
    AFFINE,
    FP16,
    MIXES,
    ROWS,
    SAVES,
    WIDTHS,
    assert_new_layer_equals_torchs,
    check,
    draw,
    draw_affine,
    draw_x,
)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_the_equation(backend: str, mix: str, width: int) -> None:
    dtypes = MIXES[mix]
    weight, bias = draw_affine((width,), dtypes.weight)
    for rows in ROWS:
        for save in SAVES:
            check("layer_norm", draw_x((rows, width), dtypes.x), weight, bias, save=save)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("affine", AFFINE)
def test_options(backend: str, mix: str, affine: str) -> None:
    dtypes = MIXES[mix]
    for dims, shape in ((1, (3, 100)), (2, (4, 3, 5)), (3, (2, 3, 4, 5)), (2, (6, 7))):
        x = draw_x(shape, dtypes.x)
        weight, bias = draw_affine(shape[-dims:], dtypes.weight, affine)
        for save in SAVES:
            for eps in (1e-12, 0.5):
                check("layer_norm", x, weight, bias, dims=dims, eps=eps, save=save)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LayerNorm(6), nn.LayerNorm(6)),
        (LayerNorm((2, 3)), nn.LayerNorm((2, 3))),
        (LayerNorm(6, 1e-3, bias=False), nn.LayerNorm(6, 1e-3, bias=False)),
        (LayerNorm(6, elementwise_affine=False), nn.LayerNorm(6, elementwise_affine=False)),
        (LayerNorm(6, save="output"), nn.LayerNorm(6)),
        (LayerNorm(6, dtype=torch.float64), nn.LayerNorm(6, dtype=torch.float64)),
    ],
)
def test_a_new_layer_equals_torchs_with_gradients_and_state(
    backend: str, ours: nn.Module, theirs: nn.Module
) -> None:
    assert_new_layer_equals_torchs(ours, theirs)


def test_class_and_function_give_the_same(backend: str) -> None:
    layer, x = LayerNorm((3, 5), 1e-2), draw_x((4, 3, 5))
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    assert torch.equal(layer(x), layer_norm(x, (3, 5), layer.weight, layer.bias, 1e-2))
    assert torch.equal(layer(x), layer_norm(x, [3, 5], layer.weight, layer.bias, 1e-2))


def test_one_number_for_the_last_dimension(backend: str) -> None:
    assert torch.equal(layer_norm(draw_x((2, 5)), 5), layer_norm(draw_x((2, 5)), (5,)))


def test_half_precision_layer_beside_another_eps(backend: str) -> None:
    layer = LayerNorm(5, 1e-2, dtype=FP16)
    x = draw_x((3, 5), FP16, seed=3) * 0.01  # small enough for eps to matter
    check("layer_norm", x, layer.weight.detach(), layer.bias.detach(), eps=1e-2)


def test_the_bits_are_the_same_without_gradients(backend: str) -> None:
    layer, x = LayerNorm(17, save="output"), draw_x((3, 17))
    y = layer(x)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert torch.equal(layer(x), y)
            assert not layer(x).requires_grad


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
def test_only_inputs_that_require_a_gradient_get_one(backend: str, wanted: str, save: Any) -> None:
    weight, bias = draw_affine((17,))
    given = {"x": draw_x((3, 17)), "weight": weight, "bias": bias}
    full = check("layer_norm", **given, save=save)
    given[wanted].requires_grad_()
    y = layer_norm(given["x"], 17, given["weight"], given["bias"], save=save)
    y.backward(draw((3, 17), seed=7))
    for name, value in given.items():
        if name == wanted:
            assert torch.equal(value.grad, full[f"d{name}"])
        else:
            assert value.grad is None


def test_device_and_dtype_reach_the_parameters() -> None:
    made = LayerNorm(4, device="meta", dtype=torch.bfloat16)
    assert {(w.device.type, w.dtype) for w in made.parameters()} == {("meta", torch.bfloat16)}
    assert made(torch.empty(2, 4, device="meta", dtype=torch.bfloat16)).shape == (2, 4)
