"""The GPU kernels compile for GPUs of NVIDIA and AMD, and spill few registers.

No GPU is needed: the launchers are called with tensors in ordinary memory and everything is done
but the launch. Figures are those of the tile sizes and warps that the launchers choose.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

TARGETS = ("sm_80", "sm_90", "gfx942")
# Bytes per thread that may lie in memory where a tile asks for more registers than there are: one
# row of 16384 in backward with dropout, and of 8192 float64; pictures of an odd number of pixels.
BOUND = 320


@cache
def compiled(target: str) -> list[dict[str, Any]]:
    """The output of `compile_kernels.py`: the spilled bytes of every case and kernel."""
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run(
        [sys.executable, str(script), target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert isinstance(found, list)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles(target: str) -> None:
    assert {row["kernel"] for row in compiled(target)} == {
        "forward",
        "forward_wide",
        "backward",
        "backward_wide",
        "weight_gradients",
    }


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_spilled_up_to_8192_columns(target: str) -> None:
    rows = [row for row in compiled(target) if row["columns"] <= 8192 and row["usual"]]
    assert len(rows) > 20
    assert not [row for row in rows if row["spilled_bytes"]]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_little_is_spilled_anywhere(target: str) -> None:
    assert max(row["spilled_bytes"] for row in compiled(target)) <= BOUND
