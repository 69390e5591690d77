"""Compiles the kernels that `gpu.py` would launch, for the GPU sys.argv[1], and prints registers.

One JSON object per kernel and line. A process of its own, as it takes Triton's driver's place.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from metronorm.norm import gpu

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64


class Case(NamedTuple):
    """Arguments of a call, for 64 rows or for the pixels of 8 images."""

    columns: int
    x: torch.dtype
    residual: torch.dtype | None = None
    dropout: float = 0.0
    pixels: tuple[int, int] | None = None
    centred: bool = True
    save_output: bool = False

    @property
    def usual(self) -> bool:
        """Whether no register may be spilled."""
        return self.x != FP64 and (self.pixels is None or self.pixels[0] * self.pixels[1] % 16 == 0)


CASES = (
    *(Case(columns, dtype) for columns in (768, 2048, 4096, 8192) for dtype in (FP32, BF16)),
    *(Case(columns, BF16, FP32, 0.1) for columns in (768, 8192, 16384, 40000)),
    Case(16384, FP32),
    Case(40000, FP32),
    Case(7, FP32),
    Case(4096, BF16, BF16, centred=False),
    Case(4096, BF16, save_output=True),
    Case(96, BF16, pixels=(56, 56)),
    Case(768, FP32, pixels=(56, 56)),
    Case(768, BF16, pixels=(7, 7)),
    Case(768, FP64),
    Case(8192, FP64),
)


class Driver:
    """The part of a driver that the compiler needs."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launch(case: Case) -> None:
    """Both passes, with float32 weights; with float64 weights for float64 inputs."""
    shape = (8, case.columns, *case.pixels) if case.pixels else (64, case.columns)
    x = torch.empty(shape, dtype=case.x)
    x = x.permute(0, 2, 3, 1) if case.pixels else x
    weight = torch.empty(case.columns, dtype=FP64 if case.x == FP64 else FP32)
    stats = torch.empty(*x.shape[:-1], 2, dtype=FP64)
    options = (weight, weight, 1, 1e-5, case.centred, case.save_output)
    if case.residual is None:
        gpu.norm(x, *options)
        gpu.norm_backward(x, None, x, stats, *options, case.x, 0.0, None, True, True)
        return
    residual = torch.empty_like(x, dtype=case.residual)
    drawn = case.dropout, torch.tensor(1) if case.dropout else None
    saved = torch.empty_like(x) if case.save_output else residual
    gpu.add_norm(x, residual, *options, *drawn)
    gpu.norm_backward(x, residual, saved, stats, *options, case.residual, *drawn, True, True)


def usage(asm: dict[str, Any]) -> dict[str, int]:
    """Registers, and bytes that are spilled to memory, per thread."""
    if "amdgcn" in asm:
        keys = {"registers": "vgpr_count", "spilled_bytes": "private_segment_fixed_size"}
        read = {name: re.search(rf"\.{key}:\s*(\d+)", asm["amdgcn"]) for name, key in keys.items()}
        spills = re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", asm["amdgcn"])
        assert spills
        found = {name: int(match[1]) for name, match in read.items() if match}
        assert found["spilled_bytes"] or not any(map(int, spills))
        return found
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", printed)
    assert match
    return {"registers": int(match[1]), "spilled_bytes": int(match[2])}


def compiled(target: str) -> Iterator[dict[str, Any]]:
    """The kernels that the launchers asked for, for every case."""
    asked: list[tuple[str, dict[str, Any], Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        asked.append((self.fn.__name__, options, kernel))

    JITFunction.run = compile_only
    triton.runtime.driver.set_active(Driver(TARGETS[target]))
    for case in CASES:
        asked.clear()
        launch(case)
        for name, options, kernel in asked:
            yield {
                "kernel": name,
                "columns": case.columns,
                "x": str(case.x),
                "residual": str(case.residual),
                "dropout": case.dropout,
                "pixels": case.pixels,
                "usual": case.usual,
                "tile": f"{options['BLOCK_ROWS']} x {options['BLOCK_COLUMNS']}",
                "num_warps": options["num_warps"],
            } | usage(kernel.asm)


if __name__ == "__main__":
    for row in compiled(sys.argv[1]):
        print(json.dumps(row))
