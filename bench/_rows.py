"""Rows of results: what was measured, on what, with which versions.

A benchmark calls `append` once per case; `bench/results/NAME.csv` grows and is committed.
"""

from __future__ import annotations

import csv
import datetime
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("date", "benchmark", "case", "unit", "p20", "p50", "p80", "machine", "versions")
PACKAGES = ("torch", "numpy", "tokenizers", "duckdb", "tensorflow", "jax", "keras", "triton")


def append(name: str, case: str, unit: str, samples: Sequence[float]) -> None:
    """Append the 20th, 50th and 80th percentile of samples to `results/NAME.csv`, and print them.

    Args:
        name: of the benchmark, the stem of its file.
        case: what was measured ("256 MB of tokens").
        unit: of the samples ("ms", "MiB").
        samples: at least one.
    """
    p20, p50, p80 = percentiles(samples)
    row = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "benchmark": name,
        "case": case,
        "unit": unit,
        "p20": f"{p20:.5g}",
        "p50": f"{p50:.5g}",
        "p80": f"{p80:.5g}",
        "machine": machine(),
        "versions": versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(f"{name}: {case}: {row['p50']} {unit} ({row['p20']} to {row['p80']})")


def percentiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile, interpolated between samples."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return fifths[0], statistics.median(samples), fifths[3]


def machine() -> str:
    """Processor and memory: "2 cores, Intel Xeon, 24 GiB"; a GPU if torch is loaded and has one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{cores} cores", _processor(), f"{gib:.0f} GiB"]
    torch = sys.modules.get("torch")  # never loaded for a description
    if torch is not None and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def versions() -> str:
    """Python and the packages that are loaded: "python 3.11.7, torch 2.13.0, ..."."""
    found = [f"python {platform.python_version()}"]
    found += [f"{name} {sys.modules[name].__version__}" for name in PACKAGES if name in sys.modules]
    return ", ".join(found)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2]
                for word in ("(R)", "(TM)", "Processor", "CPU"):
                    name = name.replace(word, " ")
                return " ".join(name.split())
    return platform.machine()
