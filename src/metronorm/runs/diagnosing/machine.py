"""Rules about the machine: memory that only grows, idle GPUs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from metronorm.runs.diagnosing.finding import Evidence, Finding
from metronorm.runs.diagnosing.reading import GPU_IN_USE
from metronorm.runs.trend import mann_kendall, theil_sen
from metronorm.text import counted, percent, short_time, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

# The record of a process after its first tick is divided into this number of stretches of time. In
# the first fifth it fills its caches. Of the other stretches, this number must have samples: a
# minute, at one sample a second.
BINS = 25
FIRST_BIN = 5
MINIMUM_BINS = 16
MINIMUM_SAMPLES = 60
# A record of less than a minute shows only a fast leak: it rises by this number of bytes, in every
# stretch, and would use up the free memory of the machine within an hour. Pages of mapped files do
# not count; if their number is not on record, nothing is found.
FAST_BINS = 10
FAST_SAMPLES = 12
FAST_BYTES = 256 * 2**20
FAST_HOURS = 1.0
# A leak rises in nearly every stretch, which chance does not do; and in the second half at this
# part of the rate of the first: what only fills up (a mapped file, a cache) slows down.
LEAK_SIGMAS = 4
STILL_RISING = 0.6
# A rise below either, as part of the memory and in bytes, is not worth looking for.
LEAK_SHARE = 0.05
LEAK_BYTES = 32 * 2**20
# It is urgent if the free memory is used up within this time.
URGENT_HOURS = 24.0

# A GPU in good use computes nearly all the time. Utilization is the share of time in which any
# kernel ran, so even a high value says little about how well it ran.
GPU_BUSY = 0.70

_MEMORY = {"memory_bytes": "memory", "children_memory_bytes": "memory of its child processes"}
_GPU_MEMORY = re.compile(r"gpu(\d+)_memory_bytes")
_AVAILABLE = "machine_memory_available_bytes"
_SHARED = "shared_memory_bytes"


@dataclass(frozen=True)
class Leak:
    """A steady rise of one rank's memory. Rates are in bytes per nanosecond.

    `seconds` is the length of the record, and `fast` whether it has less than a minute of samples.
    """

    attempt: int
    rank: int
    first_tick: int
    first_bytes: float
    last_bytes: float
    rate: float
    ticks_per_ns: float
    available_bytes: float | None
    available_rate: float
    seconds: float
    fast: bool

    @property
    def hours_left(self) -> float | None:
        """The hours until the machine's free memory is used up, at the faster of the two rates."""
        if self.available_bytes is None:
            return None
        return self.available_bytes / max(self.rate, -self.available_rate) / 3600e9


def memory(reading: Reading) -> Iterator[Finding]:
    """Find memory that rises until the end at a steady rate."""
    for column in reading.resources.columns:
        gpu = _GPU_MEMORY.fullmatch(column)
        if gpu or column in _MEMORY:
            leaks = _leaks(reading, column)
            if leaks:
                name = f"memory of GPU {gpu[1]}" if gpu else _MEMORY[column]
                yield _leak_finding(reading, name, leaks, gpu is not None)


def idle_gpus(reading: Reading) -> Iterator[Finding]:
    """Find GPUs of the run that compute only a small part of the time."""
    means = reading.gpu_utilizations
    if not means:
        return
    used = [row for row in means if row[2] > GPU_IN_USE]
    if not used:
        number = len({gpu for _, gpu, _ in means})
        yield Finding(
            rule="idle-gpu",
            severity="notice",
            what=f"The machine has {counted(number, 'GPU')} and the run used none of them.",
            advice="If that is not on purpose, check the device of the model.",
            evidence={"gpus": number},
        )
        return
    idle = sorted((mean, gpu, rank) for rank, gpu, mean in used if mean < GPU_BUSY)
    if not idle:
        return
    mean, gpu, rank = idle[0]
    others = len({number for _, number, _ in idle}) - 1
    more = f" ({counted(others, 'other GPU')} below {percent(GPU_BUSY)}, too)" if others else ""
    yield Finding(
        rule="idle-gpu",
        severity="warning",
        what=f"GPU {gpu} computed only {percent(mean)} of the time{reading.of_rank(rank)}{more}.",
        advice="See what it waits for: data (the phase `data`), the host between kernels (try "
        "larger beats, or compile the model), values that are read back every tick, or other "
        "ranks.",
        evidence={
            "gpu": gpu,
            "rank": rank,
            "utilization": mean,
            "gpus": others + 1,
        },
    )


def _leaks(reading: Reading, column: str) -> list[Leak]:
    """The leaks of all ranks and attempts, the fastest first."""
    names = reading.resources.columns
    available = _AVAILABLE if _AVAILABLE in names and "gpu" not in column else "null"
    own = f"{column} - {_SHARED}" if _SHARED in names and column == "memory_bytes" else "null"
    rows = reading.resources.sql(
        f"""with seen as (
                select attempt, rank, tick, time_ns, {column} as used, {available} as available,
                       {own} as own
                from resources where {column} is not null
                qualify tick > min(tick) over (partition by attempt, rank)),
            spans as (
                select attempt, rank, min(time_ns) as begun, max(time_ns) - min(time_ns) as span,
                       count(*) < {MINIMUM_SAMPLES} as fast
                from seen group by attempt, rank having count(*) >= {FAST_SAMPLES}),
            binned as (
                select *, least((time_ns - begun) * {BINS} // greatest(span, 1), {BINS - 1}) as bin
                from seen join spans using (attempt, rank))
            select attempt, rank, fast, median(time_ns - begun), median(tick), median(used),
                   median(available), median(own)
            from binned where bin >= {FIRST_BIN} group by attempt, rank, fast, bin
            order by attempt, rank, bin"""
    ).fetchall()
    leaks = []
    for (attempt, rank, fast), found in groupby(rows, key=lambda row: row[:3]):
        leak = _leak(attempt, rank, [row[3:] for row in found], fast)
        if leak is not None and (not fast or _is_certain(leak)):
            leaks.append(leak)
    return sorted(leaks, key=lambda leak: -leak.rate)


def _is_certain(leak: Leak) -> bool:
    """Whether a leak in a short record would soon use up all memory."""
    left = math.inf if leak.available_bytes is None else leak.available_bytes
    risen = leak.last_bytes - leak.first_bytes
    return risen >= FAST_BYTES and left <= leak.rate * FAST_HOURS * 3600e9


def _leak(attempt: int, rank: int, rows: list[tuple[Any, ...]], fast: bool) -> Leak | None:
    if len(rows) < (FAST_BINS if fast else MINIMUM_BINS):
        return None
    times, ticks, used, available, own = (list(column) for column in zip(*rows, strict=True))
    if fast:
        if None in own or any(later <= earlier for earlier, later in pairwise(own)):
            return None
        used = own
    half = len(times) // 2
    rate = theil_sen(times, used)
    early, late = theil_sen(times[:half], used[:half]), theil_sen(times[half:], used[half:])
    risen = rate * (times[-1] - times[0])
    if (
        risen < max(LEAK_SHARE * used[0], LEAK_BYTES)
        or late < STILL_RISING * early
        or mann_kendall(used) < LEAK_SIGMAS
    ):
        return None
    left = None if None in available else available
    return Leak(
        attempt=attempt,
        rank=rank,
        first_tick=int(ticks[0]),
        first_bytes=used[0],
        last_bytes=used[-1],
        rate=rate,
        ticks_per_ns=(ticks[-1] - ticks[0]) / (times[-1] - times[0]),
        available_bytes=left[-1] if left else None,
        available_rate=theil_sen(times, left) if left else 0.0,
        seconds=(times[-1] - times[0]) / 1e9,
        fast=fast,
    )


def _leak_finding(reading: Reading, name: str, leaks: list[Leak], gpu: bool) -> Finding:
    worst = leaks[0]
    per_hour = worst.rate * 3600e9
    evidence: Evidence = {
        "rank": worst.rank,
        "seconds": worst.seconds,
        "ranks": sorted({leak.rank for leak in leaks}),
        "attempt": worst.attempt,
        "first_bytes": worst.first_bytes,
        "last_bytes": worst.last_bytes,
        "bytes_per_hour": per_hour,
    }
    pace = f"{size(per_hour)} an hour"
    if worst.ticks_per_ns > 0:
        evidence["bytes_per_tick"] = worst.rate / worst.ticks_per_ns
        pace = f"{size(worst.rate / worst.ticks_per_ns)} a tick, {pace}"
    hours = worst.hours_left
    end = ""
    if hours is not None and worst.available_bytes is not None:
        evidence |= {"available_bytes": worst.available_bytes, "hours_left": hours}
        end = (
            f"; at this rate the machine's free {size(worst.available_bytes)} are used up in "
            f"{short_time(hours * 3600e9)}"
        )
        if worst.ticks_per_ns > 0:
            evidence["ticks_left"] = int(hours * 3600e9 * worst.ticks_per_ns)
            end += f" or {evidence['ticks_left']:,} ticks"
    urgent = hours is not None and hours < URGENT_HOURS and not worst.fast
    within, but = "", ". Pages of a mapped file also count, until the whole file is read."
    if worst.fast:
        within = f" in {short_time(worst.seconds * 1e9)}"
        but = ". A cache or a replay buffer that fills also rises like this, but it ends."
    elif gpu:
        but = "."
    return Finding(
        rule="memory",
        severity="critical" if urgent else "warning",
        what=f"The {name} rises steadily{reading.of_rank(worst.rank)}, from "
        f"{size(worst.first_bytes)} to {size(worst.last_bytes)}{within}: {pace}{end}.",
        advice="Look for objects that are kept from tick to tick: losses with their graph, growing "
        f"lists, hooks{but}",
        evidence=evidence,
        ticks=[worst.first_tick],
    )
