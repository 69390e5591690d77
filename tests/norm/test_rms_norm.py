"""`RMSNorm` and `rms_norm` compared with the equation, in every dtype and with every backend."""

from typing import Any

import pytest
import torch
from torch import nn

from metronorm.norm import RMSNorm, rms_norm
from tests.norm.inputs import (
    BF16,
    FP32,
    FP64,
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
    weight, _ = draw_affine((width,), dtypes.weight)
    for rows in ROWS:
        for save in SAVES:
            check("rms_norm", draw_x((rows, width), dtypes.x), weight, save=save)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("affine", ["weight", "none"])
def test_options(backend: str, mix: str, affine: str) -> None:
    dtypes = MIXES[mix]
    for dims, shape in ((1, (3, 100)), (2, (4, 3, 5)), (3, (2, 3, 4, 5)), (2, (6, 7))):
        x = draw_x(shape, dtypes.x)
        weight, _ = draw_affine(shape[-dims:], dtypes.weight, affine)
        for save in SAVES:
            for eps in (1e-12, 0.5):
                check("rms_norm", x, weight, dims=dims, eps=eps, save=save)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RMSNorm(6), nn.RMSNorm(6, 1e-6)),
        (RMSNorm((2, 3), 1e-3), nn.RMSNorm((2, 3), 1e-3)),
        (RMSNorm(6, None), nn.RMSNorm(6, None)),
        (RMSNorm(6, None, dtype=FP64), nn.RMSNorm(6, None, dtype=FP64)),
        (RMSNorm(6, elementwise_affine=False), nn.RMSNorm(6, 1e-6, elementwise_affine=False)),
        (RMSNorm(6, save="output"), nn.RMSNorm(6, 1e-6)),
    ],
)
def test_a_new_layer_equals_torchs_with_gradients_and_state(
    backend: str, ours: nn.Module, theirs: nn.Module
) -> None:
    assert_new_layer_equals_torchs(ours, theirs, scale=1e-3)  # eps matters


def test_eps_none_is_torchs_default(backend: str) -> None:
    for dtype in (FP32, BF16, FP64):
        layer, x = RMSNorm(5, None, dtype=dtype), draw((3, 5), dtype, scale=1e-3)
        torch.testing.assert_close(layer(x), nn.RMSNorm(5, None, dtype=dtype)(x))


def test_eps_is_as_given_and_1e_6_by_default(backend: str) -> None:
    x = draw((4, 5), scale=1e-3)
    for layer, eps in ((RMSNorm(5), 1e-6), (RMSNorm(5, 1e-2), 1e-2)):
        want = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt()
        torch.testing.assert_close(layer(x).double(), want, rtol=1e-6, atol=1e-7)
    assert torch.equal(rms_norm(x, 5), RMSNorm(5)(x))


def test_class_and_function_give_the_same(backend: str) -> None:
    layer, x = RMSNorm((3, 5), 1e-2), draw_x((4, 3, 5))
    nn.init.normal_(layer.weight)
    assert torch.equal(layer(x), rms_norm(x, (3, 5), layer.weight, 1e-2))


def test_the_mean_is_not_subtracted(backend: str) -> None:
    x = draw((3, 17)) + 100
    assert (rms_norm(x, 17) > 0.9).all()


def test_the_bits_are_the_same_without_gradients(backend: str) -> None:
    layer, x = RMSNorm(17, save="output"), draw_x((3, 17))
    y = layer(x)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert torch.equal(layer(x), y)
            assert not layer(x).requires_grad


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_only_inputs_that_require_a_gradient_get_one(backend: str, wanted: str, save: Any) -> None:
    given = {"x": draw_x((3, 17)), "weight": draw_affine((17,))[0]}
    full = check("rms_norm", **given, save=save)
    given[wanted].requires_grad_()
    rms_norm(given["x"], 17, given["weight"], 1e-5, save=save).backward(draw((3, 17), seed=7))
    for name, value in given.items():
        if name == wanted:
            assert torch.equal(value.grad, full[f"d{name}"])
        else:
            assert value.grad is None


def test_device_and_dtype_reach_the_parameters() -> None:
    made = RMSNorm(4, device="meta", dtype=torch.bfloat16)
    assert {(w.device.type, w.dtype) for w in made.parameters()} == {("meta", torch.bfloat16)}
    assert made(torch.empty(2, 4, device="meta", dtype=torch.bfloat16)).shape == (2, 4)
