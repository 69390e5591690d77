"""`LayerNorm2d` compared with the equation, in every layout; it copies nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.norm import LayerNorm, LayerNorm2d, layer_norm_2d, reference
from tests.norm.inputs import (
    AFFINE,
    FP32,
    FP64,
    MIXES,
    SAVES,
    assert_judged,
    draw,
    draw_affine,
    draw_x,
    equations,
    leaf,
)

SIZES = [(2, 7, 5, 4), (1, 64, 3, 3), (3, 1, 2, 2), (2, 17, 1, 1), (1, 100, 1, 9), (2, 96, 8, 5)]
EMPTY = [(0, 5, 4, 3), (2, 5, 0, 3), (2, 5, 3, 0)]


def contiguous(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x(shape, dtype, seed)


def channels_last(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x(shape, dtype, seed).to(memory_format=torch.channels_last)


def some_channels(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    batch, channels, *rest = shape
    return draw_x((batch, channels + 3, *rest), dtype, seed)[:, 2:-1]


def some_channels_last(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    batch, channels, *rest = shape
    return channels_last((batch, channels + 3, *rest), dtype, seed)[:, 2:-1]


def cropped(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    batch, channels, height, width = shape
    return draw_x((batch, channels, height + 2, 2 * width), dtype, seed)[:, :, 1:-1, ::2]


def turned(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    batch, channels, height, width = shape
    return draw_x((batch, channels, width, height), dtype, seed).transpose(2, 3)


def width_first(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return draw_x(shape[::-1], dtype, seed).permute(3, 2, 1, 0)


LAYOUTS = [
    contiguous,
    channels_last,
    some_channels,
    some_channels_last,
    cropped,
    turned,
    width_first,
]


def check_2d(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, save: Any, dy: Tensor, eps: float = 1e-6
) -> None:
    given = [tensor for tensor in (x, weight, bias, dy) if tensor is not None]
    before = [tensor.clone() for tensor in given]
    leaves = {"x": leaf(x), "weight": leaf(weight), "bias": leaf(bias)}
    y = layer_norm_2d(*leaves.values(), eps, save=save)
    y.backward(dy)
    assert all(map(torch.equal, given, before))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    if x.numel():
        strides = zip(y.stride(), torch.empty_like(x).stride(), x.shape, strict=True)
        assert all(got == want for got, want, size in strides if size > 1)
    last = (0, 2, 3, 1)
    saved = x.dtype if save == "output" else None
    judged = equations(dy.permute(last), x.permute(last), weight, bias, eps=eps, saved=saved)
    assert_judged("y", y.detach().permute(last), judged["y"])
    assert_judged("dx", leaves["x"].grad.permute(last), judged["dx"])
    for name in ("weight", "bias"):
        if leaves[name] is not None:
            assert leaves[name].grad.dtype == leaves[name].dtype
            assert_judged(f"d{name}", leaves[name].grad, judged[f"d{name}"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mix", MIXES)
def test_equals_the_equation(backend: str, mix: str, layout: Any) -> None:
    dtypes = MIXES[mix]
    for shape in SIZES + EMPTY:
        x, dy = layout(shape, dtypes.x, 0), layout(shape, dtypes.x, 7)
        weight, bias = draw_affine(shape[1:2], dtypes.weight)
        for save in SAVES:
            check_2d(x, weight, bias, save, dy)


@pytest.mark.parametrize("slope", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_may_have_another_layout(backend: str, layout: Any, slope: Any) -> None:
    shape = (2, 7, 5, 4)
    weight, bias = draw_affine((7,))
    for save in SAVES:
        check_2d(layout(shape, FP32, 0), weight, bias, save, slope(shape, FP32, 7))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("affine", AFFINE)
def test_options(backend: str, affine: str, layout: Any) -> None:
    shape = (2, 33, 3, 4)
    for dtype, eps in ((FP32, 1e-12), (torch.bfloat16, 0.5)):
        weight, bias = draw_affine((33,), dtype, affine)
        for save in SAVES:
            check_2d(layout(shape, dtype, 0), weight, bias, save, layout(shape, dtype, 7), eps)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_gradient_of_a_sum(backend: str, layout: Any) -> None:
    weight, bias = draw_affine((7,))
    x = layout((2, 7, 5, 4), FP32, 0)
    check_2d(x, weight, bias, "input", torch.ones(()).expand(x.shape))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_the_layer_norm_of_permuted_images(
    backend: str, memory_format: torch.memory_format
) -> None:
    layer, plain = LayerNorm2d(7, 1e-3), LayerNorm(7, 1e-3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    plain.load_state_dict(layer.state_dict())
    x = draw_x((2, 7, 5, 4)).to(memory_format=memory_format)
    want = plain(x.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), want, rtol=1e-6, atol=2e-6)
    assert layer(x).is_contiguous(memory_format=memory_format)
    assert torch.equal(layer(x), layer_norm_2d(x, layer.weight, layer.bias, 1e-3))


def test_a_new_layer_has_torchs_state_dict() -> None:
    ours, theirs = LayerNorm2d(6), nn.LayerNorm(6)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert ours.weight.shape == ours.bias.shape == (6,)
    assert LayerNorm2d(6, bias=False).bias is None
    assert not list(LayerNorm2d(6, elementwise_affine=False).parameters())
    assert LayerNorm2d(6).eps == 1e-6  # as in ConvNeXt


def test_device_and_dtype_reach_the_parameters() -> None:
    made = LayerNorm2d(4, device="meta", dtype=torch.bfloat16)
    assert {(w.device.type, w.dtype) for w in made.parameters()} == {("meta", torch.bfloat16)}


def test_gradients_reach_the_layer(backend: str) -> None:
    layer = LayerNorm2d(5, save="output")
    layer(draw((2, 5, 3, 3))).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in layer.parameters())


@pytest.mark.parametrize("channels", [5, 96, 1024, 4096])
@pytest.mark.parametrize("off", [0.0, 1e3, 1e5])
def test_far_from_zero(backend: str, channels: int, off: float) -> None:
    shape = (2, channels, 3, 7)
    x = (draw(shape, FP64) + off).float().requires_grad_()
    dy, (weight, bias) = draw(shape, seed=7), draw_affine((channels,))
    assert weight is not None
    assert bias is not None
    y = layer_norm_2d(x, weight, bias)
    y.backward(dy)
    rows, slopes = (image.detach().permute(0, 2, 3, 1).flatten(0, 2) for image in (x, dy))
    want = reference.forward(rows, weight, bias, 1e-6)
    dx = reference.backward(slopes, rows, weight, 1e-6).x
    for got, exact in ((y, want), (x.grad, dx)):
        off_by = got.detach().permute(0, 2, 3, 1).flatten(0, 2).double() - exact
        assert (off_by.norm(dim=1) / exact.norm(dim=1)).max() <= 1e-5


@pytest.mark.parametrize("channels", [5, 1024, 4096])
def test_constant_pixels_give_the_bias(backend: str, channels: int) -> None:
    levels = torch.logspace(-3, 7, 60).reshape(1, 1, 6, 10)
    x = levels.expand(2, channels, 6, 10).contiguous().requires_grad_()
    _, bias = draw_affine((channels,))
    assert bias is not None
    y = layer_norm_2d(x, torch.ones(channels), bias)
    torch.testing.assert_close(y, bias.view(1, -1, 1, 1).expand_as(y), rtol=0, atol=1e-3)
    y.backward(draw(x.shape, seed=7))
    assert x.grad is not None
    assert x.grad.isfinite().all()
