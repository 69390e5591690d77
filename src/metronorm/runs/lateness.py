"""Which rank reaches the collective later than the others, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

# A straggler is late during this share of a tick, in the median.
LATE_SHARE = 0.03
# Ranks that are alike are later than the median of the others in half of the ticks.
LATE_TICKS = 0.80
# Fewer ticks give no reliable median.
MINIMUM_TICKS = 20
# The number of ticks to read, chosen by a hash of their numbers. A rank that is always late is
# late in these, too.
TICKS_READ = 2000
# the ticks in which a rank was latest, to be named
TICKS_NAMED = 10


class Straggler(NamedTuple):
    """A rank that is late; times in nanoseconds.

    Attributes:
        rank: its number.
        late_ns: how much later it is than the median of the other ranks, in the median tick.
        part: the share of the ticks in which it is late at all.
        wall_ns: the median tick.
        ticks: how many ticks were read.
        worst: the ticks in which it was latest.
    """

    rank: int
    late_ns: float
    part: float
    wall_ns: float
    ticks: int
    worst: list[int]


def stragglers(
    fetch: Callable[[str], list[tuple[Any, ...]]], span: int, moment: str, where: str = "true"
) -> list[Straggler]:
    """The ranks that are late in most ticks, the latest first.

    Args:
        fetch: returns the rows of a query over `ticks`, of all ranks.
        span: how many ticks the run has, about.
        moment: SQL of nanoseconds from the beginning of a tick, such as `arrival_ns`.
        where: SQL of the ticks to read.
    """
    rows = fetch(
        f"""with moments as (
                select rank, tick, wall_ns, {moment} as moment from ticks
                where {where} and hash(tick) % {max(span // TICKS_READ, 1)} = 0),
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
    found = [Straggler(*row) for row in rows]
    return [
        each
        for each in found
        if each.late_ns > LATE_SHARE * each.wall_ns and each.part >= LATE_TICKS
    ]
