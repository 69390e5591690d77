"""Other trackers' samples of the machine, in the names and units of a run's resources."""

from __future__ import annotations

import re
from math import isfinite

# The tracker's name (W&B's have dots, trackio's slashes), the run's name, and the factor from the
# tracker's unit to the run's.
_KNOWN = (
    (r"gpu\.(\d+)\.gpu|gpu/(\d+)/utilization", "gpu{}_utilization", 0.01),
    (r"gpu\.(\d+)\.memoryAllocatedBytes", "gpu{}_memory_bytes", 1),
    (r"gpu/(\d+)/allocated_memory", "gpu{}_memory_bytes", 2**30),
    (r"gpu\.(\d+)\.powerWatts|gpu/(\d+)/power", "gpu{}_power_watts", 1),
    (r"gpu\.(\d+)\.temp|gpu/(\d+)/temp", "gpu{}_temperature_celsius", 1),
    (r"gpu\.(\d+)\.energyJoules|gpu/(\d+)/energy_consumed", "gpu{}_energy_joules", 1),
    (r"proc\.memory\.rssMB", "memory_bytes", 2**20),
    (r"proc\.memory\.availableMB", "machine_memory_available_bytes", 2**20),
    (r"memory/available", "machine_memory_available_bytes", 2**30),
    (r"cpu/utilization", "machine_processor_share", 0.01),
)
_PATTERNS = [(re.compile(pattern), column, unit) for pattern, column, unit in _KNOWN]


def split_sample(values: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Split a sample into resources of a run, renamed, and the rest, unchanged.

    A value that is not finite belongs to the rest: nothing was measured.
    """
    known, rest = {}, {}
    for name, value in values.items():
        for pattern, column, unit in _PATTERNS:
            if isfinite(value) and (found := pattern.fullmatch(name)):
                scaled = value * unit
                exact = round(scaled) if column.endswith("_bytes") else scaled
                known[column.format(found[found.lastindex] if found.lastindex else "")] = exact
                break
        else:
            rest[name] = value
    return known, rest
