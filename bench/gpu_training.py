"""Training on a GPU, as `metronorm train` does it: tokens per second and the device's phases.

500 ticks of the preset `small` on a generated text, which needs no download. The run is read back
as anybody would read it. The exit code is 1 unless every tick is on record with its loss, which
arrives from the device some ticks later, and the phases forward, backward and update have times.

python bench/gpu_training.py
python bench/gpu_training.py --device cpu --preset quick --ticks 8    try it without a GPU
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _rows import append

from metronorm.runs import open_run

NAME = "gpu_training"
WORDS, LENGTH = 4000, 600_000  # different words, and words in the text: about 4 MB
WARM_UP = 0.2  # of the ticks: compilation of kernels, growth of the allocator's pools


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--ticks", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text, run = Path(folder, "text.txt"), Path(folder, "run")
        text.write_text(generated_text(), encoding="utf-8")
        options = {
            "preset": arguments.preset,
            "device": arguments.device,
            "ticks": arguments.ticks,
            "data": text,
            "run": run,
            "cache": Path(folder, "cache"),
            "evaluate-every": arguments.ticks,
            "sample-every": 0,
        }
        command = [sys.executable, "-m", "metronorm", "train"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True)
        return report(run, arguments.preset, arguments.device, arguments.ticks)


def generated_text(seed: int = 0) -> str:
    """Words of random letters, drawn so that few of them are frequent and most are rare."""
    numbers = random.Random(seed)
    letters = "etaoinshrdlu"
    words = ["".join(numbers.choices(letters, k=numbers.randint(2, 9))) for _ in range(WORDS)]
    weights = [1 / (rank + 1) for rank in range(WORDS)]
    drawn = numbers.choices(words, weights, k=LENGTH)
    return "\n".join(" ".join(drawn[begin : begin + 12]) for begin in range(0, LENGTH, 12))


def report(run: Path, preset: str, device: str, ticks: int) -> int:
    """Append the rows of a run; 1 if something is missing in it, else 0."""
    torch.empty(0, device=device)  # so that the rows name the GPU
    table = open_run(run).ticks()
    counted, losses, dropped = table.sql(
        "select count(*), count(loss), max(tick) - count(distinct tick) from ticks"
    ).fetchall()[0]
    first = int(WARM_UP * ticks)
    rows = [row for row in table.rows() if row["tick"] > first]
    case = f"{preset}, {device}"
    speeds = [row["tokens"] / row["wall_ns"] * 1e9 for row in rows]
    append(NAME, f"{case}, speed", "tokens/s", speeds)
    append(NAME, f"{case}, tick", "ms", [row["wall_ns"] / 1e6 for row in rows])
    for phase in table.phases:
        spent = [row[f"{phase}_ns"] for row in rows]
        known = [nanoseconds / 1e6 for nanoseconds in spent if nanoseconds is not None]
        if known:
            append(NAME, f"{case}, {phase}", "ms", known)
    print(f"{counted} of {ticks} ticks on record, {losses} with their loss, {dropped} missing")
    complete = counted == losses == ticks and not dropped
    timed = {"forward", "backward", "update"} <= set(table.phases)
    return 0 if complete and timed else 1


if __name__ == "__main__":
    sys.exit(main())
