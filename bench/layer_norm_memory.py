"""Peak memory of forward and backward through 24 pre-norm blocks: torch's norms, ours, ours fused.

Every block is twice norm, linear and residual add: a transformer block without the attention. It
runs in bf16 under autocast with a float32 residual stream, and in pure bf16. The peak counts the
bytes of all tensors except the parameters, by a dispatch mode that sees every operator.

python bench/layer_norm_memory.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from _memory import Peak
from _rows import append
from torch import Tensor, nn

from metronorm.norm import AddLayerNorm, LayerNorm

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.norm.checks import Save

LAYERS, BATCH, TIME, WIDTH = 24, 8, 256, 768


class Unfused(nn.Module):
    """x = x + linear(norm(x)), with any norm layer."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(2 * LAYERS + 1))
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2 * LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for norm, linear in zip(self.norms, self.linears, strict=False):
            x = x + linear(norm(x))
        result: Tensor = self.norms[-1](x)
        return result


class Fused(nn.Module):
    """The same; the norm that follows does the residual add."""

    def __init__(self, save: Save) -> None:
        super().__init__()
        self.norms = nn.ModuleList(AddLayerNorm(WIDTH, save=save) for _ in range(2 * LAYERS + 1))
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2 * LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        stream = None
        for norm, linear in zip(self.norms, self.linears, strict=False):
            normed, stream = norm(x, stream)
            x = linear(normed)
        result: Tensor = self.norms[-1](x, stream)[0]
        return result


def main() -> None:
    models: dict[str, Callable[[], nn.Module]] = {
        "torch": lambda: Unfused(nn.LayerNorm),
        "ours": lambda: Unfused(LayerNorm),
        "ours fused": lambda: Fused("input"),
        'ours fused, save="output"': lambda: Fused("output"),
    }
    for precision in ("autocast bf16", "bf16"):
        for name, make in models.items():
            case = f"{LAYERS} blocks, {BATCH}x{TIME}x{WIDTH}, {precision}, {name}"
            append("layer_norm_memory", case, "MiB", [peak(make(), precision)])


def peak(model: nn.Module, precision: str) -> float:
    """The peak of forward and backward, in MiB."""
    pure = precision == "bf16"
    model.to(torch.bfloat16 if pure else torch.float32)
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.bfloat16 if pure else torch.float32)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with Peak() as seen, torch.autocast("cpu", torch.bfloat16, enabled=not pure):
        model(x).float().square().sum().backward()
    most: int = seen.most
    return most / 2**20


if __name__ == "__main__":
    main()
