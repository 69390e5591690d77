"""LayerNorm over very many numbers: wide rows and several axes, ours beside torch's.

Forward without gradients, and forward with backward, in turns; and the largest error of what is
normalized and of the input's gradient, in units of float32 or bfloat16 (`finfo.eps`), beside
float64. The gradient's error is relative to its largest number.

python bench/layer_norm_wide.py             about a minute on two idle cores
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch
from _race import race, ratios
from _rows import append
from torch import Tensor, nn

from metronorm.allocator import keep_large_blocks
from metronorm.norm import LayerNorm, backend

if TYPE_CHECKING:
    from collections.abc import Callable

# The shape, and how many of its last axes are normalized.
CASES = [((16, 262_144), 1), ((16, 512, 512), 2), ((64, 16, 64, 64), 3), ((4096, 4, 16, 16), 3)]
NAME = "layer_norm_wide"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0, help="of each race")
    arguments = parser.parse_args()
    print("backend:", backend(), "threads:", torch.get_num_threads())
    keep_large_blocks(True)
    for shape, axes in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            compare(shape, axes, dtype, arguments.seconds)


def compare(shape: tuple[int, ...], axes: int, dtype: torch.dtype, seconds: float) -> None:
    """One shape; appends rows."""
    torch.manual_seed(0)
    name = f"{'x'.join(map(str, shape))} over {axes}, {str(dtype).removeprefix('torch.')}"
    x, slope = ((torch.randn(shape) * 3 + 1).to(dtype) for _ in range(2))
    layers = {"torch": nn.LayerNorm(shape[-axes:]), "ours": LayerNorm(shape[-axes:])}
    with torch.no_grad():
        for layer in layers.values():
            layer.to(dtype)
    want = both(nn.LayerNorm(shape[-axes:]).double(), x.double(), slope.double())
    unit = torch.finfo(dtype).eps
    for who, layer in layers.items():
        found = both(layer, x, slope)
        for what, got, right in zip(("output", "input's gradient"), found, want, strict=True):
            far = (got.double() - right).abs().max() / right.abs().max() / unit
            append(
                NAME, f"{name}, error of the {what}, {who}", "units of its largest", [float(far)]
            )

    def forward(layer: nn.Module) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                layer(x)

        return run

    races = {
        "forward": {who: forward(layer) for who, layer in layers.items()},
        "forward+backward": {
            who: lambda layer=layer: both(layer, x, slope) for who, layer in layers.items()
        },
    }
    for what, contestants in races.items():
        turns = race(contestants, seconds=seconds, least=5)  # type: ignore[arg-type]
        for who, samples in turns.items():
            append(NAME, f"{name}, {what}, {who}", "ms", samples)
        append(NAME, f"{name}, {what}, torch over ours", "ratio", ratios(turns, "torch", "ours"))


def both(layer: nn.Module, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of the input; those of the parameters are computed too."""
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    gradients = torch.autograd.grad(y, (leaf, *layer.parameters()), slope)
    return y.detach(), gradients[0]


if __name__ == "__main__":
    main()
