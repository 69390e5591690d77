"""Rule about stragglers: ranks that the others wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Finding
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS
from metronorm.store.sql_columns import identifier
from metronorm.text import percent, short_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

# The other ranks wait for it during this share of every tick.
LATE_SHARE = 0.03
# Ranks that are alike are later than the median of the others in half of the ticks.
LATE_TICKS = 0.80
# The number of ticks to read, chosen by a hash of their numbers. A rank that is always late is
# late in these, too.
TICKS_READ = 2000

# The phases before the gradients are added up, in which a rank waits for no other. Without a phase
# `communicate`, the backward pass may include the wait for the others.
_BEFORE_COLLECTIVE = ("data", "forward", "backward")


def stragglers(reading: Reading) -> Iterator[Finding]:
    """Find a rank that reaches the collective later than the others in most ticks."""
    if reading.ranks < 2:
        return
    if "arrival_ns" in reading.columns:
        yield from _late(reading, "arrival_ns", "arrives")
        return
    before = [phase for phase in _BEFORE_COLLECTIVE if phase in reading.phases]
    if "communicate" not in reading.phases and "backward" in before:
        before.remove("backward")
    if not before or "unattributed" not in reading.phases:
        return
    parts = " + ".join(f"coalesce({identifier(phase + '_ns')}, 0)" for phase in before)
    moment = f"case when unattributed_ns is not null then {parts} end"
    yield from _late(reading, moment, f"finishes {' and '.join(before)}")


def _late(reading: Reading, moment: str, does: str) -> Iterator[Finding]:
    """Find ranks with a `moment` (SQL, ns after the tick began) later than that of the others."""
    ticks = max(row["last"] - row["first"] + 1 for row in reading.totals)
    rows = reading.sql(
        f"""with moments as (
                select rank, tick, wall_ns, {moment} as moment from ticks
                where {reading.warm} and hash(tick) % {max(ticks // TICKS_READ, 1)} = 0),
            known as (
                select *, row_number() over (partition by tick order by rank) as place
                from moments where moment is not null),
            together as (
                select tick, list(moment order by rank) as moments
                from known group by tick having count(*) > 1),
            lateness as (
                select rank, tick, wall_ns,
                       moment - list_median(list_concat(
                           moments[:place - 1], moments[place + 1:])) as late
                from known join together using (tick))
            select rank, median(late), avg((late > 0)::INTEGER), median(wall_ns), count(*),
                   arg_max(tick, late, {TICKS_NAMED})
            from lateness group by rank having count(*) >= {MINIMUM_TICKS}
            order by 2 desc"""
    )
    late = [row for row in rows if row[1] > LATE_SHARE * row[3] and row[2] >= LATE_TICKS]
    if not late:
        return
    rank, late_ns, part, wall_ns, count, worst = late[0]
    ranks = sorted(row[0] for row in late)
    others = f" (so do ranks {', '.join(map(str, ranks))})" if len(ranks) > 1 else ""
    yield Finding(
        rule="straggler",
        severity="warning",
        what=f"Rank {rank} {does} {short_time(late_ns)} after the median of the other ranks, in "
        f"{percent(part)} of the ticks. All ranks wait for it during {percent(late_ns / wall_ns)} "
        f"of a tick{others}.",
        advice="Compare its host with the other hosts: temperatures, clock rates, other processes, "
        "disk, network. Or its share of the data is larger.",
        evidence={
            "share": late_ns / wall_ns,
            "rank": rank,
            "late_ns": late_ns,
            "late_ticks_share": part,
            "ticks_read": count,
            "ranks": ranks,
        },
        ticks=sorted(worst),
    )
