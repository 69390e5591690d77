"""The memory of the loader does not grow with the corpus.

Token files of 16 MB to 2 GB; from each, a process of its own draws 2,000 batches in random order.
Told is the peak: `anonymous` is what the process allocated; `total` counts shared libraries and
the pages of the memory map too, which the loader gives back after every batch. Rows go to
`results/loader_memory.csv`.

    python bench/loader_memory.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _rows import append

from metronorm.data.sampler import WindowSampler

NAME = "loader_memory"
MEGABYTES = (16, 256, 2000)
BATCHES, BATCH_SIZE, CONTEXT = 2000, 32, 256
REPEATS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in MEGABYTES:
            path = Path(folder, f"{megabytes}.bin")
            _write_tokens(path, megabytes)
            runs = [_measured(path) for _ in range(REPEATS)]
            path.unlink()
            case = f"{megabytes} MB of tokens"
            for kind in ("anonymous", "total"):
                samples = [one for run in runs for one in run[kind]]
                append(NAME, f"{case}, {kind} memory", "MiB", samples)
            samples = [one for run in runs for one in run["milliseconds"]]
            append(NAME, f"{case}, batch of {BATCH_SIZE} x {CONTEXT}", "ms", samples)


def sample(path: Path) -> None:
    """Draw batches and print what that took, as JSON. Runs in a process of its own."""
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    sampler = WindowSampler(tokens, CONTEXT, BATCH_SIZE, seed=0)
    found: dict[str, list[float]] = {"anonymous": [0.0], "total": [0.0], "milliseconds": []}
    for batch in range(BATCHES):
        start = time.perf_counter()
        next(sampler)
        found["milliseconds"].append((time.perf_counter() - start) * 1e3)
        if batch % 7 == 0:  # in step with nothing
            for kind, mebibytes in _resident().items():
                found[kind] = [max(found[kind][0], mebibytes)]
    print(json.dumps(found))


def _resident() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return {"anonymous": kib["RssAnon"] / 1024, "total": kib["VmRSS"] / 1024}


def _write_tokens(path: Path, megabytes: int) -> None:
    block = np.random.default_rng(0).integers(0, 4096, 500_000, dtype=np.uint16).tobytes()
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(block)


def _measured(path: Path) -> dict[str, list[float]]:
    command = [sys.executable, __file__, str(path)]
    found: dict[str, list[float]] = json.loads(subprocess.check_output(command))
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sample(Path(sys.argv[1]))
    else:
        main()
