"""Tokens per second of the 10 M GPT with our norms, and with `torch.nn.LayerNorm` instead.

Trainer, weights and batches are the same; only the norms differ. Three contestants take turns: ours
fused with the residual add, ours not fused, and torch's norm after torch's add.

python bench/layer_norm_gpt.py
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from typing import TYPE_CHECKING

from _rows import append
from torch import nn
from train_gpt import build

from metronorm.allocator import keep_large_blocks
from metronorm.clock import Clock
from metronorm.norm import AddLayerNorm, fuse_residuals
from metronorm.tasks.text.gpt_task import count
from metronorm.train.rank_beats import rank_windows

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS, STEPS = 15, 3


class TorchNorm(nn.LayerNorm):
    """Torch's add, then torch's norm."""

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        summed = x if residual is None else residual + x
        return super().forward(summed), summed


def main() -> None:
    names = ("fused", "unfused", "torch")
    ready = {name: build("10 M")[0] for name in names}
    steps = {name: each.step for name, each in ready.items()}
    keep_large_blocks(True)
    fuse_residuals(steps["unfused"].model, False)
    use_torch(steps["torch"].model)
    for step in steps.values():
        step.precision = steps["fused"].precision
    print("precision:", steps["fused"].precision)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        clocks = {
            name: stack.enter_context(Clock(f"{folder}/{name}", progress=False)) for name in names
        }
        ticks = {
            name: clock.ticks(rank_windows(ready[name].beats, 1, count))
            for name, clock in clocks.items()
        }
        for turn in range(ROUNDS + 1):
            for name in names:
                begin, tokens = time.perf_counter(), 0
                for window in itertools.islice(ticks[name], STEPS):
                    steps[name].tick(clocks[name], window)
                    tokens += window.count
                if turn:
                    speeds[name].append(tokens / (time.perf_counter() - begin))
    for name, samples in speeds.items():
        append("layer_norm_gpt", f"10 M, {name}", "tokens/s", samples)
    for name in names[:2]:
        found = [a / b for a, b in zip(speeds[name], speeds["torch"], strict=True)]
        append("layer_norm_gpt", f"10 M, {name} over torch", "ratio", found)


def use_torch(model: nn.Module) -> None:
    """Replace each of our layers by torch's, with the same weights."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AddLayerNorm):
                layer = TorchNorm(child.normalized_shape, child.eps, bias=child.bias is not None)
                layer.load_state_dict(child.state_dict())
                setattr(parent, name, layer)


if __name__ == "__main__":
    main()
