"""Rule about the time of Python's garbage collector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Finding
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS
from metronorm.text import counted, percent, short_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

# In a usual training the collector takes less than 1% of the time. The longest collection is left
# out, so that a single one is not found; less than a second is not worth a change.
GARBAGE_SHARE = 0.05
GARBAGE_NS = 1e9
# It runs in nearly every tick if the median is at least this part of the mean.
EVERY_TICK = 0.5

ADVICE = (
    "After set-up, call `gc.collect()` and `gc.freeze()`: it then skips the objects that stay. To "
    "make it rare, call `gc.disable()`, and `gc.collect()` every few hundred ticks, on all ranks "
    "at the same tick."
)
_OWN_ADVICE = "If the loop calls `gc.collect()` itself, call it less often. "


def much_garbage(reading: Reading) -> dict[str, Any] | None:
    """The rank on which the collector takes most of the time, with `share`; None if not much."""
    rows = [
        row | {"share": row["gc_time"] / row["warm_time"]}
        for row in reading.totals
        if row.get("warm_ticks", 0) >= MINIMUM_TICKS and row["gc_time"] and row["warm_time"]
    ]
    row = max(rows, key=lambda row: row["share"], default=None)
    if row is None:
        return None
    without_longest = row["gc_time"] - row["longest_gc"]
    return row if without_longest > max(GARBAGE_SHARE * row["warm_time"], GARBAGE_NS) else None


def garbage(reading: Reading) -> Iterator[Finding]:
    """Find that the garbage collector takes much of the time."""
    row = much_garbage(reading)
    if row is None:
        return
    rank = row["rank"]
    mean = row["gc_time"] / row["warm_ticks"]
    median, ticks, worst = reading.one(
        f"""select median(gc_ns), count(*) filter (gc_ns > {mean}),
                   arg_max(tick, gc_ns, {TICKS_NAMED})
            from ticks where {reading.warm} and rank = {rank} and gc_ns is not null"""
    )
    always = median >= EVERY_TICK * mean
    spread = "in nearly every tick" if always else f"most of it in {counted(ticks, 'tick')}"
    yield Finding(
        rule="garbage",
        severity="warning",
        what=f"{percent(row['share'])} of the time is spent in Python's garbage collector"
        f"{reading.of_rank(rank)}: {short_time(mean)} a tick on average, {spread}, "
        f"{short_time(row['longest_gc'])} at most.",
        advice=(_OWN_ADVICE if always else "") + ADVICE,
        evidence={
            "share": row["share"],
            "rank": rank,
            "mean_ns": mean,
            "median_ns": median,
            "longest_ns": row["longest_gc"],
            "ticks_above_mean": ticks,
        },
        ticks=sorted(worst),
    )
