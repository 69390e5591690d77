"""Torch and the kernels of the norms, loaded in a process of its own, which may crash."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

_SECONDS = 120  # from a cold network disk, torch takes half of it


def load_torch(seconds: float = _SECONDS) -> tuple[dict[str, Any], str | None]:
    """What torch and the kernels are, and why not all of them could be loaded; None: all were.

    Args:
        seconds: that the process may take.
    """
    # (-P: a file in the current folder is not taken for a package, as by the command `metronorm`)
    command = [sys.executable, "-P", "-m", "metronorm.doctor._torch_probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or ""
        lines = output.decode() if isinstance(output, bytes) else output
        return _merged(lines), f"it was not loaded after {seconds:g} s"
    found = _merged(done.stdout)
    if done.returncode == 0:
        return found, None
    if done.returncode < 0:
        return found, f"its process was ended by {signal.Signals(-done.returncode).name}"
    return found, done.stderr.strip().rpartition("\n")[2]


def _merged(lines: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines.splitlines():
        try:
            found |= json.loads(line)
        except ValueError:  # a package that prints, or half a line
            continue
    return found
