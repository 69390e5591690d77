"""Rule about stragglers: ranks that the others wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import Finding
from metronorm.runs.lateness import stragglers as find_stragglers
from metronorm.store.sql_columns import identifier
from metronorm.text import percent, short_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

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
    span = max(row["last"] - row["first"] + 1 for row in reading.totals)
    late = find_stragglers(reading.sql, span, moment, reading.warm)
    if not late:
        return
    latest = late[0]
    ranks = sorted(each.rank for each in late)
    others = f" (so do ranks {', '.join(map(str, ranks))})" if len(ranks) > 1 else ""
    share = latest.late_ns / latest.wall_ns
    yield Finding(
        rule="straggler",
        severity="warning",
        what=f"Rank {latest.rank} {does} {short_time(latest.late_ns)} after the median of the "
        f"other ranks, in {percent(latest.part)} of the ticks. All ranks wait for it during "
        f"{percent(share)} of a tick{others}.",
        advice="Compare its host with the other hosts: temperatures, clock rates, other processes, "
        "disk, network. Or its share of the data is larger.",
        evidence={
            "share": share,
            "rank": latest.rank,
            "late_ns": latest.late_ns,
            "late_ticks_share": latest.part,
            "ticks_read": latest.ticks,
            "ranks": ranks,
        },
        ticks=sorted(latest.worst),
    )
