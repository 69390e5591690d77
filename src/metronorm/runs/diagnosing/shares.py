"""Rules about shares of the time after warm-up: data, planned phases, no phase, small beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Evidence, Finding
from metronorm.runs.diagnosing.reading import GPU_IN_USE, MINIMUM_TICKS, PLANNED, STEADY
from metronorm.runs.trend import period
from metronorm.text import counted, percent, short_time, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

# The loop does not compute while it waits for data. Below this share there is little to gain.
DATA_SHARE = 0.10
# The waits come in bursts if the longest twentieth of them has this share of their time.
BURST_SHARE = 0.80
# The bursts are the waits of that twentieth that have at least this part of the longest wait.
LONG_WAIT = 0.10

# The share of the time that each planned phase may take. An evaluation gives information, so it may
# take more. With the advised period, a phase takes the advised share.
PLANNED_SHARES = {"evaluate": 0.20, "checkpoint": 0.05, "sample": 0.05}
ADVISED_SHARES = {"evaluate": 0.05, "checkpoint": 0.01, "sample": 0.01}
_ALTERNATIVE = {"evaluate": "; or evaluate on less of the held-out data"}

# A larger share in no phase may hide a cause from all other rules.
UNATTRIBUTED_SHARE = 0.15

# To launch a kernel takes microseconds, and a beat has hundreds of kernels: a beat shorter than
# this probably spends most of its time on launches.
SMALL_BEAT_NS_GPU = 5e6
SMALL_BEAT_NS_CPU = 2e6
# With fewer beats in a tick there is little to gain.
SMALL_BEATS = 4
# With a smaller share of the machine's memory free, larger beats may not fit.
MEMORY_FREE = 0.20


def waits_for_data(reading: Reading) -> dict[str, Any] | None:
    """The rank that waits for its data the most, with `share`; None if it is not much."""
    row = reading.worst("data")
    return row if row and row["share"] > DATA_SHARE else None


def data_bound(reading: Reading) -> Iterator[Finding]:
    """Find that the loop waits for its data."""
    row = waits_for_data(reading)
    if row is None:
        return
    rank, share = row["rank"], row["share"]
    median, burst, ticks, longest, long = reading.one(
        f"""with waits as (
                select tick, data_ns, row_number() over (order by data_ns desc) as place
                from ticks
                where {reading.warm} and rank = {rank} and unattributed_ns is not null)
            select median(data_ns), sum(data_ns) filter (place * 20 <= {row["sampled_ticks"]}),
                   arg_max(tick, data_ns, {TICKS_NAMED}), max(data_ns),
                   list(tick order by tick) filter (
                       place * 20 <= {row["sampled_ticks"]}
                       and data_ns >= {LONG_WAIT} * (select max(data_ns) from waits))
            from waits where data_ns is not null"""
    )
    burst = (burst or 0) / row["data_ns"]
    mean = row["data_ns"] / row["sampled_ticks"]
    in_bursts = burst >= BURST_SHARE
    if in_bursts:
        advice = (
            "Only a few ticks wait: keep the loader's workers alive between epochs "
            "(persistent_workers=True), and see what is read at these ticks."
        )
        spread = f"{percent(burst)} of it in one tick of twenty, {short_time(longest)} at most"
    else:
        advice = (
            "Nearly every tick waits: use more loader workers or a longer prefetch, or decode and "
            "tokenize before training."
        )
        spread = f"the median tick waits {short_time(median)}"
    evidence: Evidence = {
        "share": share,
        "rank": rank,
        "mean_ns": mean,
        "median_ns": median,
        "longest_ns": longest,
        "longest_twentieth_share": burst,
    }
    every = period(long or []) if in_bursts else None
    if every:
        evidence["every_ticks"] = every
        spread += f"; the long waits come every {every:,} ticks"
    yield Finding(
        rule="data-bound",
        severity="warning",
        what=f"{percent(share)} of the time is spent waiting for data{reading.of_rank(rank)}: "
        f"{short_time(mean)} a tick on average, {spread}.",
        advice=advice,
        evidence=evidence,
        ticks=sorted(ticks) if in_bursts else [],
    )


def planned(reading: Reading) -> Iterator[Finding]:
    """Find that evaluations, checkpoints or samples take too much of the time."""
    for phase in PLANNED:
        row = reading.worst(phase)
        if row is None or row["share"] <= PLANNED_SHARES[phase]:
            continue
        count = row[f"{phase}_ticks"]
        if count < 2:  # a single one has no period
            continue
        share, advised = row["share"], ADVISED_SHARES[phase]
        least = "At least " * (row["sampled_ticks"] < row["warm_ticks"])
        every, mean = row["warm_ticks"] / count, row[f"{phase}_ns"] / count
        longer = every * share / (1 - share) * (1 - advised) / advised
        yield Finding(
            rule=phase,
            severity="warning",
            what=f"{least}{percent(share)} of the time is spent in the phase {phase}: "
            f"{short_time(mean)} in each of {counted(count, 'tick')}, once in {every:,.0f} ticks.",
            advice=f"Once in about {_round(longer):,} ticks, it would be {percent(advised)} of "
            f"the time{_ALTERNATIVE.get(phase, '')}.",
            evidence={
                "share": share,
                "rank": row["rank"],
                "ticks": count,
                "every_ticks": every,
                "mean_ns": mean,
                "advised_every_ticks": _round(longer),
            },
        )


def unattributed(reading: Reading) -> Iterator[Finding]:
    """Find that too much of the time is in no phase."""
    row = reading.worst("unattributed")
    if row is None or row["share"] <= UNATTRIBUTED_SHARE:
        return
    if row["clock_time"] > row["share"] / 2 * row["whole_time"]:
        return  # the rule `clock-cost` reports it
    mean = row["unattributed_ns"] / row["sampled_ticks"]
    yield Finding(
        rule="unattributed",
        severity="notice",
        what=f"{percent(row['share'])} of the time is in no phase{reading.of_rank(row['rank'])}: "
        f"{short_time(mean)} a tick.",
        advice='Put `with clock.phase("NAME"):` around this part of the loop. Without it the other '
        "rules do not see what takes the time.",
        evidence={"share": row["share"], "rank": row["rank"], "mean_ns": mean},
    )


def small_beats(reading: Reading) -> Iterator[Finding]:
    """Find beats so short that their fixed cost is probably a large part of them."""
    if reading.steady_ticks < MINIMUM_TICKS:
        return
    beats, beat_ns = reading.one(
        f"""select median(beats), median(own / beats) from timeline
            where {STEADY} and own is not null and beats > 0"""
    )
    gpu = any(mean > GPU_IN_USE for _, _, mean in reading.gpu_utilizations)
    limit = SMALL_BEAT_NS_GPU if gpu else SMALL_BEAT_NS_CPU
    if beats is None or beats < SMALL_BEATS or beat_ns >= limit:
        return
    evidence: Evidence = {"beats": beats, "beat_ns": beat_ns}
    room = ""
    if "machine_memory_available_bytes" in reading.resources.columns:
        row = reading.resources.sql(
            "select min(machine_memory_available_bytes), max(memory_bytes) from resources"
        ).fetchall()[0]
        available, used = row
        memory = reading.run.info.host.get("memory_bytes")
        if available is not None and used is not None:
            if memory and available < MEMORY_FREE * memory:
                return
            evidence |= {"memory_bytes": used, "machine_memory_available_bytes": available}
            room = f" (the process uses {size(used)}, the machine has {size(available)} free)"
    yield Finding(
        rule="small-beats",
        severity="notice",
        what=f"A tick has {beats:,.0f} beats and takes only {short_time(beat_ns)} per beat: the "
        "fixed cost of a beat is probably a large part of that.",
        advice=f"If memory allows{room}, try half as many beats of twice the size in another run, "
        "and compare the tokens per second.",
        evidence=evidence,
    )


def _round(ticks: float) -> int:
    """Round to two digits: the number is only advice."""
    return max(int(float(f"{ticks:.2g}")), 1)
