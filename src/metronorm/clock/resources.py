"""What the process uses: sampled about once a second, at the end of a tick."""

from __future__ import annotations

import os
import resource
import sys
import time

# getrusage counts the peak in kilobytes, on macOS in bytes
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")


def sample_resources(tick: int, time_ns: int) -> dict[str, int | None]:
    """One record of the resources tape: bytes of resident memory, nanoseconds of processor."""
    return {
        "tick": tick,
        "time_ns": time_ns,
        "memory_bytes": _resident_bytes(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT,
        "processor_ns": time.process_time_ns(),
    }


def _resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:  # not Linux
        return None
