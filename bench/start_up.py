"""How long `metronorm --help` and the imports take, each in a fresh process.

python bench/start_up.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from _rows import append

REPEATS = 20

CASES = {
    "python alone": [sys.executable, "-c", "pass"],
    "metronorm --help": [str(Path(sys.executable).with_name("metronorm")), "--help"],
    "metronorm train --help": [
        str(Path(sys.executable).with_name("metronorm")),
        "train",
        "--help",
    ],
    "import metronorm.clock": [sys.executable, "-c", "import metronorm.clock"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(REPEATS + 1):
        for name, command in CASES.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first finds nothing in the page cache
                times[name].append(1e3 * (time.perf_counter() - begin))
    for name, samples in times.items():
        append("start_up", name, "ms", samples)


if __name__ == "__main__":
    main()
