"""Where the time goes, once the run is warm: data, evaluation, checkpoints, in no phase, beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metronorm.runs.diagnosing.finding import (
    TICKS_NAMED,
    Evidence,
    Finding,
    counted,
    size,
)
from metronorm.runs.diagnosing.reading import GPU_IN_USE, MINIMUM_TICKS, PLANNED, STEADY
from metronorm.runs.diagnosing.trend import period
from metronorm.text import short_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

# What the loop waits for data it does not compute; below a tenth there is little to win.
DATA_SHARE = 0.10
# The longest twentieth of the waits holding this much of them: they come in bursts.
BURST_SHARE = 0.80
# Of these the waits that have this part of the longest are the bursts.
LONG_WAIT = 0.10

# What share of the time each of these may take. An evaluation tells something; a checkpoint and a
# sample are only written. ADVISED is what a longer period would bring it down to.
PLANNED_SHARES = {"evaluate": 0.20, "checkpoint": 0.05, "sample": 0.05}
ADVISED_SHARES = {"evaluate": 0.05, "checkpoint": 0.01, "sample": 0.01}
_OR = {"evaluate": "; or evaluate on less of the held-out data"}

# More time than this without a name may hide a cause from every other rule.
UNATTRIBUTED_SHARE = 0.15

# A model's kernels cost microseconds each to launch, whatever their size, and there are hundreds in
# a beat: a beat shorter than this is likely to be made of launches. One beat could not be fewer;
# two or three would hardly be worth it.
SMALL_BEAT_NS_GPU = 5e6
SMALL_BEAT_NS_PROCESSOR = 2e6
SMALL_BEATS = 4
MEMORY_FREE = 0.20  # of the machine's memory: with less, larger beats may not fit


def waits_for_data(reading: Reading) -> dict[str, Any] | None:
    """The rank that waits most for its data, with `share`; None if that is not much."""
    row = reading.worst("data")
    return row if row and row["share"] > DATA_SHARE else None


def data_bound(reading: Reading) -> Iterator[Finding]:
    """The loop waits for its data."""
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
            "The wait is in few ticks: keep the loader's workers alive between epochs "
            "(persistent_workers=True), and see what is read at these ticks."
        )
        spread = f"{burst:.0%} of that in one tick of twenty, {short_time(longest)} at most"
    else:
        advice = (
            "Nearly every tick waits: more loader workers, a longer prefetch, or decode and "
            "tokenize ahead of training."
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
        spread += f"; they come every {every:,} ticks"
    yield Finding(
        rule="data-bound",
        severity="warning",
        what=f"{share:.1%} of the time is spent waiting for data{reading.of_rank(rank)}: "
        f"{short_time(mean)} a tick on average, {spread}.",
        advice=advice,
        evidence=evidence,
        ticks=sorted(ticks) if in_bursts else [],
    )


def planned(reading: Reading) -> Iterator[Finding]:
    """Evaluations, checkpoints or samples take too much of the time."""
    for phase in PLANNED:
        row = reading.worst(phase)
        if row is None or row["share"] <= PLANNED_SHARES[phase]:
            continue
        count = row[f"{phase}_ticks"]
        if count < 2:  # of a single one nobody can say how often it comes
            continue
        share, advised = row["share"], ADVISED_SHARES[phase]
        least = "At least " * (row["sampled_ticks"] < row["warm_ticks"])
        every, mean = row["warm_ticks"] / count, row[f"{phase}_ns"] / count
        longer = every * share / (1 - share) * (1 - advised) / advised
        yield Finding(
            rule=phase,
            severity="warning",
            what=f"{least}{share:.1%} of the time is in the phase {phase}: "
            f"{counted(count, 'tick')} have it, one of {every:,.0f}, for {short_time(mean)} each.",
            advice=f"About every {_round(longer):,} ticks it would be {advised:.0%} of the time"
            f"{_OR.get(phase, '')}.",
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
    """Too much of the time is in no phase."""
    row = reading.worst("unattributed")
    if row is None or row["share"] <= UNATTRIBUTED_SHARE:
        return
    if (
        row["clock_time"] > row["share"] / 2 * row["whole_time"]
    ):  # the rule `clock-cost` tells of it
        return
    mean = row["unattributed_ns"] / row["sampled_ticks"]
    yield Finding(
        rule="unattributed",
        severity="notice",
        what=f"{row['share']:.1%} of the time is in no phase{reading.of_rank(row['rank'])}: "
        f"{short_time(mean)} a tick.",
        advice='Put `with clock.phase("NAME"):` around what the loop does there; until then the '
        "other rules cannot see into it.",
        evidence={"share": row["share"], "rank": row["rank"], "mean_ns": mean},
    )


def small_beats(reading: Reading) -> Iterator[Finding]:
    """Beats so short that their fixed cost is likely to be a large part of them."""
    if reading.steady_ticks < MINIMUM_TICKS:
        return
    beats, beat_ns = reading.one(
        f"""select median(beats), median(own / beats) from timeline
            where {STEADY} and own is not null and beats > 0"""
    )
    gpu = any(mean > GPU_IN_USE for _, _, mean in reading.gpu_utilizations)
    limit = SMALL_BEAT_NS_GPU if gpu else SMALL_BEAT_NS_PROCESSOR
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
            room = f" (the process has {size(used)}, the machine {size(available)} to spare)"
    yield Finding(
        rule="small-beats",
        severity="notice",
        what=f"{beats:,.0f} beats a tick take only {short_time(beat_ns)} each, all of the tick "
        "included: what a beat costs whatever its size is likely a large part of that.",
        advice=f"If memory allows{room}, try half as many beats of twice the size in another run "
        "and compare the tokens per second.",
        evidence=evidence,
    )


def _round(ticks: float) -> int:
    """To two digits: it is only advice."""
    return max(int(float(f"{ticks:.2g}")), 1)
