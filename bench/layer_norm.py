"""Layer normalization: ours, torch eager, `torch.compile`, and the plain copy of the same tensor.

Forward without gradients, backward alone, and residual add + norm forward and backward, in bf16 and
fp32; images against permute + norm + permute. On a GPU also Liger, where it is installed, and
RMSNorm; the rows go to `layer_norm_cuda.csv`. On CPUs large blocks of memory are kept, as
`metronorm train` keeps them: otherwise page faults outweigh everything that is compared here.

python bench/layer_norm.py                  all of it on the CPU, about four minutes
python bench/layer_norm.py --quick          without torch.compile
python bench/layer_norm.py --device cuda    on a GPU, about three minutes
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from _race import race, ratios
from _rows import append
from torch import Tensor, nn

from metronorm.allocator import keep_large_blocks
from metronorm.norm import AddLayerNorm, LayerNorm, LayerNorm2d, RMSNorm, backend

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = [(4096, 768), (2048, 4096), (16384, 2048), (32, 768), (512, 16384)]
IMAGES = (32, 96, 56, 56)


class Device:
    """Where the race takes place: its name, where its rows go, and how long a race takes."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        self.gpu = self.torch.type != "cpu"
        self.benchmark = f"layer_norm_{self.torch.type}" if self.gpu else "layer_norm"
        self.seconds = 0.5 if self.gpu else 2.0

    def wait(self) -> None:
        """Return when the device has computed everything."""
        if self.gpu:
            torch.accelerator.synchronize(self.torch)


class Separate(nn.Module):
    """Residual add and torch's norm as two operators."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        summed = x + residual
        return self.norm(summed), summed


class Permuted(nn.Module):
    """Norm over the channels of images: permute them to the end, normalize, permute back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="leave torch.compile out")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = Device(arguments.device)
    check_same(device)
    print("backend:", "Triton" if device.gpu else backend(), "threads:", torch.get_num_threads())
    keep_large_blocks(True)
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float32):
        for rows, width in SHAPES:
            compare_rows(device, rows, width, dtype, compiled=not arguments.quick)
        compare_images(device, dtype)


def compare_rows(
    device: Device, rows: int, width: int, dtype: torch.dtype, *, compiled: bool
) -> None:
    """One shape; appends milliseconds and ratios."""
    torch.compiler.reset()
    name = f"{rows}x{width} {str(dtype).removeprefix('torch.')}"
    x, residual, dy = (torch.randn(rows, width).to(device.torch, dtype) for _ in range(3))
    layers: dict[str, nn.Module] = {"torch": nn.LayerNorm(width), "ours": LayerNorm(width)}
    pairs: dict[str, nn.Module] = {"torch": Separate(width), "ours": AddLayerNorm(width)}
    rms: dict[str, nn.Module] = {}
    if device.gpu:
        rms = {"torch": nn.RMSNorm(width, eps=1e-6), "ours": RMSNorm(width)}
        layers |= liger("LigerLayerNorm", width, eps=1e-5)
        rms |= liger("LigerRMSNorm", width, eps=1e-6, in_place=False)
    for each_of in (layers, pairs, rms):
        for module in each_of.values():
            module.to(device.torch, dtype)
        if compiled and each_of:
            each_of["compile"] = torch.compile(each_of["torch"], dynamic=False)  # type: ignore[assignment]

    def forward(layer: nn.Module) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                layer(x)

        return run

    report(device, f"{name}, forward", {"copy": x.clone, **each(layers, forward)})
    report(device, f"{name}, backward", each(layers, lambda layer: backward(layer, x, dy)))
    report(
        device,
        f"{name}, add+norm forward+backward",
        each(pairs, lambda layer: forward_backward(layer, (x, residual), (dy, dy))),
    )
    if rms:
        runs = each(rms, lambda layer: forward_backward(layer, (x,), (dy,)))
        report(device, f"{name}, RMSNorm forward+backward", runs)


def liger(name: str, width: int, **options: float) -> dict[str, nn.Module]:
    """Liger's layer, where Liger is installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return {}
    transformers = importlib.import_module("liger_kernel.transformers")
    return {"liger": getattr(transformers, name)(width, **options)}


def compare_images(device: Device, dtype: torch.dtype) -> None:
    """Contiguous images, forward and backward."""
    name = f"{'x'.join(map(str, IMAGES))} {str(dtype).removeprefix('torch.')}"
    x, dy = (torch.randn(IMAGES).to(device.torch, dtype) for _ in range(2))
    layers = {"torch": Permuted(IMAGES[1]), "ours": LayerNorm2d(IMAGES[1])}
    for module in layers.values():
        module.to(device.torch, dtype)
    runs = each(layers, lambda layer: forward_backward(layer, (x,), (dy,)))
    report(device, f"{name}, images forward+backward", runs)


def each(
    layers: dict[str, nn.Module], act: Callable[[nn.Module], Callable[[], object]]
) -> dict[str, Callable[[], object]]:
    return {who: act(layer) for who, layer in layers.items()}


def backward(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    """The backward pass alone; the graph is kept for the next call."""
    leaves = x.clone().requires_grad_(), *layer.parameters()
    y = layer(leaves[0])
    return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)


def forward_backward(
    layer: nn.Module, inputs: tuple[Tensor, ...], slopes: tuple[Tensor, ...]
) -> Callable[[], object]:
    """Both passes."""
    leaves = [x.clone().requires_grad_() for x in inputs]

    def run() -> object:
        outputs = layer(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return torch.autograd.grad(outputs, (*leaves, *layer.parameters()), slopes)

    return run


def report(device: Device, case: str, contestants: dict[str, Callable[[], object]]) -> None:
    turns = race(contestants, seconds=device.seconds, wait=device.wait)
    for who, samples in turns.items():
        append(device.benchmark, f"{case}, {who}", "ms", samples)
    for slow in ("torch", "compile", "liger"):
        if slow in turns:
            samples = ratios(turns, slow, "ours")
            append(device.benchmark, f"{case}, {slow} over ours", "ratio", samples)
    if "copy" in turns:
        samples = ratios(turns, "ours", "copy")
        append(device.benchmark, f"{case}, ours over copy", "ratio", samples)


def check_same(device: Device) -> None:
    """Check that all contestants compute the same."""
    x, residual = (torch.randn(8, 64).to(device.torch) for _ in range(2))
    normed, summed = AddLayerNorm(64).to(device.torch)(x, residual)
    torch.testing.assert_close(normed, F.layer_norm(x + residual, (64,)))
    torch.testing.assert_close(summed, x + residual)
    images = torch.randn(2, 8, 5, 5).to(device.torch)
    ours, theirs = LayerNorm2d(8).to(device.torch), Permuted(8).to(device.torch)
    torch.testing.assert_close(ours(images), theirs(images))
    norms: dict[str, Callable[..., Tensor]] = {}
    if device.gpu:
        norms = {"LigerLayerNorm": F.layer_norm, "LigerRMSNorm": F.rms_norm}
        if not liger("LigerLayerNorm", 64):
            print("Liger is not compared: it is not installed (pip install liger-kernel)")
    for name, reference in norms.items():
        for layer in liger(name, 64, eps=1e-5).values():
            found = layer.to(device.torch)(x)
            torch.testing.assert_close(found, reference(x, (64,), eps=1e-5))


if __name__ == "__main__":
    main()
