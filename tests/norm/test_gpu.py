"""The public modules on a GPU, compared with the equations; skipped if there is none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from metronorm.norm import (
    AddLayerNorm,
    AddRMSNorm,
    LayerNorm,
    LayerNorm2d,
    RMSNorm,
    gpu,
    layer_norm,
)
from metronorm.norm.dropout import keep_scale
from tests.norm.inputs import (
    ADD_MIXES,
    FP32,
    FP64,
    MIXES,
    SAVES,
    assert_judged,
    draw,
    draw_affine,
    draw_x,
    equations,
)

DEVICE = torch.device("cuda")
SHAPES = ((1, 5000), (7, 0), (7, 5), (128, 3000), (768, 5001), (4097, 65), (8192, 300))
WIDE = ((9000, 40), (16384, 300), (20001, 9), (1_000_000, 2))
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "layer_norm": (LayerNorm, AddLayerNorm),
    "rms_norm": (RMSNorm, AddRMSNorm),
}


def on_gpu(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the GPU with the same strides, which requires a gradient."""
    return tensor.detach().to(DEVICE, copy=True).requires_grad_()


def prepared(
    kind: str, make: Callable[..., Any], width: int, dtype: torch.dtype, **rest: Any
) -> Any:
    layer = make(width, eps=1e-5, device=DEVICE, dtype=dtype, **rest)
    weight, bias = draw_affine((width,), dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if kind == "layer_norm":
            layer.bias.copy_(bias)
    return layer


def judge(kind: str, layer: Any, dy: torch.Tensor, x: torch.Tensor, got: dict[str, Any]) -> None:
    weight = layer.weight.detach().cpu()
    bias = layer.bias.detach().cpu() if kind == "layer_norm" else None
    saved = dy.dtype if layer.save == "output" else None
    got |= {"dweight": layer.weight.grad}
    if bias is not None:
        got |= {"dbias": layer.bias.grad}
    judged = equations(dy, x, weight, bias, eps=1e-5, centred=kind == "layer_norm", saved=saved)
    for name, value in got.items():
        assert_judged(name, value.detach().cpu(), judged[name])


@pytest.mark.parametrize("shape", SHAPES + WIDE)
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equation(kind: str, mix: str, shape: tuple[int, int]) -> None:
    (width, rows), dtypes = shape, MIXES[mix]
    for save in SAVES:
        layer = prepared(kind, KINDS[kind][0], width, dtypes.weight, save=save)
        x, dy = draw_x((rows, width), dtypes.x), draw((rows, width), dtypes.x, 7)
        leaf = on_gpu(x)
        y = layer(leaf)
        y.backward(dy.to(DEVICE))
        judge(kind, layer, dy, x, {"y": y, "dx": leaf.grad})


@pytest.mark.parametrize("shape", SHAPES + WIDE[:3])
@pytest.mark.parametrize("mix", ADD_MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_add_and_dropout(kind: str, mix: str, shape: tuple[int, int]) -> None:
    """The norm is compared for the sum that was returned, which is rounded already."""
    (width, rows), dtypes = shape, ADD_MIXES[mix]
    layer = prepared(kind, KINDS[kind][1], width, dtypes.weight, dropout=0.3)
    x, residual = draw_x((rows, width), dtypes.x), draw_x((rows, width), dtypes.residual, 3)
    dy = draw((rows, width), dtypes.x, 7)
    leaf, stream = on_gpu(x), on_gpu(residual)
    normed, summed = layer(leaf, stream)
    normed.backward(dy.to(DEVICE))
    judge(kind, layer, dy, summed.detach().cpu(), {"y": normed, "dx": stream.grad})
    kept = (summed.detach().cpu().double() - residual.double()).abs() > 0.1 * x.double().abs()
    if x.numel() > 10_000:
        assert abs(kept.double().mean().item() - 0.7) < 0.05


@pytest.mark.parametrize("dropout", [0.001, 0.5])
def test_drops_the_same_elements_as_every_backend(dropout: float) -> None:
    for shape in ((3, 1), (5, 7), (600, 100), (2, 20001)):
        seed = torch.tensor(2**61 + 12345)
        x, zeros = torch.ones(shape, device=DEVICE), torch.zeros(shape, device=DEVICE)
        args = (None, None, 1, 1e-5, True, False, dropout, seed.to(DEVICE))
        _, summed, _ = gpu.add_norm(x, zeros, *args)
        want = keep_scale(x.shape, 1, dropout, seed, FP32)
        assert torch.equal(summed.cpu() != 0, want != 0)
        torch.testing.assert_close(summed.cpu(), want, rtol=3e-7, atol=0)


@pytest.mark.parametrize("pixels", [(56, 56), (14, 14), (7, 7), (1, 3)])
@pytest.mark.parametrize("channels", [3, 96, 768, 2048])
def test_images_keep_their_layout(channels: int, pixels: tuple[int, int]) -> None:
    x = draw_x((2, channels, *pixels))
    layer = prepared("layer_norm", LayerNorm2d, channels, FP32)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaf = on_gpu(x.to(memory_format=memory_format))
        y = layer(leaf)
        assert y.stride() == torch.empty_like(leaf).stride()
        dy = draw(x.shape, FP32, 7)
        layer.zero_grad()
        y.backward(dy.to(DEVICE))
        last = [t.permute(0, 2, 3, 1) for t in (dy, x, y, leaf.grad)]
        judge("layer_norm", layer, last[0], last[1], {"y": last[2], "dx": last[3]})


def test_rows_far_from_zero() -> None:
    for width in (768, 9000, 20001):
        x = (draw((64, width), FP64) + 1e5).float()
        layer = prepared("layer_norm", LayerNorm, width, FP32)
        leaf, dy = on_gpu(x), draw(x.shape, FP32, 7)
        y = layer(leaf)
        y.backward(dy.to(DEVICE))
        judge("layer_norm", layer, dy, x, {"y": y, "dx": leaf.grad})


def test_two_backward_passes_give_the_same_bits() -> None:
    for width, rows in ((768, 9999), (20001, 100)):
        layer = prepared("layer_norm", LayerNorm, width, FP32)
        found = []
        for _ in range(2):
            layer.zero_grad()
            layer(on_gpu(draw_x((rows, width)))).backward(draw((rows, width)).to(DEVICE))
            found.append(layer.weight.grad.clone())
        assert torch.equal(*found)


def test_second_derivatives() -> None:
    x, (weight, bias) = on_gpu(draw_x((3, 6), FP64)), draw_affine((6,), FP64)
    assert weight is not None
    assert bias is not None
    inputs = (x, on_gpu(weight), on_gpu(bias))
    for save in SAVES:

        def run(*args: torch.Tensor, save: Any = save) -> torch.Tensor:
            return layer_norm(args[0], 6, *args[1:], save=save)

        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)


def test_the_kernels_run() -> None:
    """The Triton kernels run, not `composed.py`: one launch forward, and one backward."""
    layer = prepared("layer_norm", LayerNorm, 768, FP32)
    x = on_gpu(draw_x((64, 768)))
    layer(x).sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        layer(x).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"forward", "backward"} <= names
