"""Layer normalization: ours, torch eager, `torch.compile`, and the plain copy of the same tensor.

Forward without gradients, backward alone, and residual add + norm forward and backward, in bf16 and
fp32; images against permute + norm + permute. Large blocks of memory are kept, as `metronorm train`
keeps them: otherwise page faults outweigh everything that is compared here.

python bench/layer_norm.py             all of it, about four minutes
python bench/layer_norm.py --quick     without torch.compile
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from _race import race, ratios
from _rows import append
from torch import Tensor, nn

from metronorm.norm import AddLayerNorm, LayerNorm, LayerNorm2d, backend
from metronorm.train.machine import keep_large_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = [(4096, 768), (2048, 4096), (16384, 2048), (32, 768), (512, 16384)]
IMAGES = (32, 96, 56, 56)


class Separate(nn.Module):
    """Residual add and torch's norm, as two operators."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        summed = x + residual
        return self.norm(summed), summed


class Permuted(nn.Module):
    """The channels of images by way of the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2).contiguous()


def main() -> None:
    print("backend:", backend(), "threads:", torch.get_num_threads())
    keep_large_blocks(True)
    torch.manual_seed(0)
    quick = "--quick" in sys.argv
    for dtype in (torch.bfloat16, torch.float32):
        for rows, width in SHAPES:
            compare_rows(rows, width, dtype, compiled=not quick)
        compare_images(dtype)


def compare_rows(rows: int, width: int, dtype: torch.dtype, *, compiled: bool) -> None:
    """One shape; appends milliseconds and ratios."""
    torch.compiler.reset()
    name = f"{rows}x{width} {str(dtype).removeprefix('torch.')}"
    x, residual, dy = (torch.randn(rows, width).to(dtype) for _ in range(3))
    layers: dict[str, nn.Module] = {"torch": nn.LayerNorm(width), "ours": LayerNorm(width)}
    pairs: dict[str, nn.Module] = {"torch": Separate(width), "ours": AddLayerNorm(width)}
    for module in (*layers.values(), *pairs.values()):
        module.to(dtype)
    if compiled:
        layers["compile"] = torch.compile(layers["torch"], dynamic=False)  # type: ignore[assignment]
        pairs["compile"] = torch.compile(pairs["torch"], dynamic=False)  # type: ignore[assignment]

    def forward(layer: nn.Module) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                layer(x)

        return run

    report(f"{name}, forward", {"copy": x.clone, **each(layers, forward)})
    report(f"{name}, backward", each(layers, lambda layer: backward(layer, x, dy)))
    report(
        f"{name}, add+norm forward+backward",
        each(pairs, lambda layer: forward_backward(layer, (x, residual), (dy, dy))),
    )


def compare_images(dtype: torch.dtype) -> None:
    """Contiguous images, forward and backward."""
    name = f"{'x'.join(map(str, IMAGES))} {str(dtype).removeprefix('torch.')}"
    x, dy = (torch.randn(IMAGES).to(dtype) for _ in range(2))
    layers = {"torch": Permuted(IMAGES[1]), "ours": LayerNorm2d(IMAGES[1])}
    for module in layers.values():
        module.to(dtype)
    runs = each(layers, lambda layer: forward_backward(layer, (x,), (dy,)))
    report(f"{name}, images forward+backward", runs)


def each(
    layers: dict[str, nn.Module], act: Callable[[nn.Module], Callable[[], object]]
) -> dict[str, Callable[[], object]]:
    return {who: act(layer) for who, layer in layers.items()}


def backward(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    """The backward pass alone, of a graph that is kept."""
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


def report(case: str, contestants: dict[str, Callable[[], object]]) -> None:
    turns = race(contestants)
    for who, samples in turns.items():
        append("layer_norm", f"{case}, {who}", "ms", samples)
    for slow in ("torch", "compile"):
        if slow in turns:
            append("layer_norm", f"{case}, {slow} over ours", "ratio", ratios(turns, slow, "ours"))
    if "copy" in turns:
        append("layer_norm", f"{case}, ours over copy", "ratio", ratios(turns, "ours", "copy"))


def check_same() -> None:
    """What is compared computes the same."""
    x, residual = torch.randn(8, 64), torch.randn(8, 64)
    normed, summed = AddLayerNorm(64)(x, residual)
    torch.testing.assert_close(normed, F.layer_norm(x + residual, (64,)))
    torch.testing.assert_close(summed, x + residual)
    images = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(LayerNorm2d(8)(images), Permuted(8)(images))


if __name__ == "__main__":
    check_same()
    main()
