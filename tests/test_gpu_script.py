"""`bench/gpu.sh`: without a GPU it says so; what fails on one is named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "bench" / "gpu.sh"

# Python on a machine with a GPU, as the script sees it: it has a GPU, one part ends with 3, and
# another one takes longer than its limit.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  -c*) echo "Fake GPU" ;;
  *test_gpu.py) exit 3 ;;
  *gpu_training.py) exit 124 ;;
  *) echo "ran $*" ;;
esac
"""


def run_script(python: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": python}
    return subprocess.run(
        ["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_line_says_so() -> None:
    done = run_script(sys.executable)
    assert done.stdout == "no GPU on this machine: nothing was tested or measured\n"
    assert done.returncode == 0


def test_failed_parts_are_named_and_the_others_run(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    done = run_script(str(python))
    assert done.returncode == 1
    assert "GPU: Fake GPU" in done.stdout
    assert "ran bench/layer_norm.py --device cuda" in done.stdout
    assert "ran bench/ticks.py --device cuda" in done.stdout
    _, _, failures = done.stdout.partition("failed:\n")
    assert failures.splitlines() == [
        "  Triton tests (exit code 3)",
        "  training (stopped after 140 s)",
    ]


def test_when_all_parts_pass_the_exit_code_is_0(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\necho 'Fake GPU'\n")
    python.chmod(0o755)
    done = run_script(str(python))
    assert done.returncode == 0
    assert done.stdout.endswith("all parts passed\n")


def test_without_torch_nothing_passes(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\nexit 1\n")
    python.chmod(0o755)
    assert run_script(str(python)).returncode == 1


def test_takes_at_most_twelve_minutes() -> None:
    limits = [int(limit) for limit in re.findall(r'^part ".*" (\d+) ', SCRIPT.read_text(), re.M)]
    assert len(limits) == 4
    assert sum(limit + 5 for limit in limits) <= 12 * 60
