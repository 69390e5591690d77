"""Rule about stalls: ticks in which the loop stood still for a long time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Evidence, Finding, in_phase
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS, STEADY
from metronorm.store.sql_columns import identifier
from metronorm.text import counted, short_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.runs.diagnosing.reading import Reading

# A stall takes at least this long, and at least as long as this number of usual ticks.
STALL_NS = 10e9
STALL_TIMES = 20
# With more ticks like that, or at regular distances, the loop causes them: other rules report them.
STALLS = 3
TICKS_PER_STALL = 1000
# A smaller share of the time is a notice, unless the clock's stall watch reported it.
STALL_SHARE = 0.02


@dataclass(frozen=True)
class Stall:
    """A tick in which the loop stood still, for how long, and in which phase ("" if not known).

    `reported` is True if the clock's stall watch has recorded it, with the stacks of all threads.
    """

    tick: int
    ns: float
    phase: str = ""
    rank: int = 0
    reported: bool = False


def find_stalls(reading: Reading) -> list[Stall]:
    """The ticks of the lowest rank that took very long, if there are only a few.

    Time in a phase that most ticks lack does not count: such phases are known to take long. The
    last tick of an attempt does not count either: it includes what came after the loop.
    """
    steady = f"from timeline where {STEADY}"
    count, level = reading.one(f"select count(*), median(own) {steady}")
    if count < MINIMUM_TICKS or level is None:
        return []
    phases = _usual_phases(reading)
    columns = [identifier(f"{phase}_ns") for phase in phases]
    time = " + ".join(columns) or "own"
    most = max(count // TICKS_PER_STALL, STALLS)
    rows = reading.sql(
        f"""select tick, {", ".join([time, *columns])}
            from (select *, max(tick) over (partition by attempt) as last from timeline)
            where {STEADY} and {"sampled" if columns else "true"} and tick < last
                  and {time} >= {max(STALL_NS, STALL_TIMES * level)}
            order by tick limit {most + 1}"""
    )
    ticks = [row[0] for row in rows]
    if len(ticks) > most or _regular(ticks):
        return []
    return [
        Stall(tick, ns, phases[spent.index(max(spent))] if spent else "", reading.rank)
        for tick, ns, *spent in rows
    ]


def stalls(reading: Reading) -> Iterator[Finding]:
    """Find that the loop stood still for a long time."""
    reported = {
        (event.tick, event.rank): event.number("seconds") * 1e9
        for event in reading.events
        if event.name == "stall"
    }
    # an event of the watch has the number of the last tick that had ended
    found = [
        Stall(each.tick, each.ns, each.phase, each.rank, reported=True)
        if {(each.tick, each.rank), (each.tick - 1, each.rank)} & set(reported)
        else each
        for each in reading.stalls
    ]
    known = {(each.tick - back, each.rank) for each in found for back in (0, 1)}
    found += [
        Stall(tick, ns, "", rank, reported=True)
        for (tick, rank), ns in reported.items()
        if (tick, rank) not in known
    ]
    if found:
        yield _finding(reading, sorted(found, key=lambda each: each.tick))


def _finding(reading: Reading, found: list[Stall]) -> Finding:
    longest = max(found, key=lambda each: each.ns)
    in_ticks = float(sum(each.ns for each in reading.stalls))
    share = in_ticks / float(reading.one("select sum(wall) from timeline")[0]) if in_ticks else 0.0
    times = "once, " if len(found) == 1 else f"{counted(len(found), 'time')}, the longest "
    more = "" if longest.phase else " and more"
    where = f", {in_phase(longest.phase)}" if longest.phase else ""
    evidence: Evidence = {"share": share} if share else {}
    evidence |= {
        "stalls": len(found),
        "seconds": longest.ns / 1e9,
        "rank": longest.rank,
    }
    reported = any(each.reported for each in found)
    if reported:
        advice = "The event `stall` has the stacks of all threads: read them in run.events()."
    else:
        advice = (
            "See what the machine did then, in run.resources(): disk, swap, other processes. In "
            "your own loop, put work that is meant to be long into a `clock.phase`. To record the "
            "stacks of all threads the next time, use "
            f"`Clock(stall=StallWatch(at_least_seconds={STALL_NS / 2e9:.0f}))`."
        )
    return Finding(
        rule="stall",
        severity="warning"
        if share > STALL_SHARE or any(each.reported for each in found)
        else "notice",
        what=f"The loop stood still {times}at tick {longest.tick:,}"
        f"{reading.of_rank(longest.rank)}, for {short_time(longest.ns)}{more}{where}.",
        advice=advice,
        evidence=evidence,
        ticks=[each.tick for each in found][:TICKS_NAMED],
    )


def _usual_phases(reading: Reading) -> list[str]:
    """The phases that most ticks have."""
    if not reading.phases:
        return []
    medians = ", ".join(f"median({identifier(f'{phase}_ns')})" for phase in reading.phases)
    row = reading.one(f"select {medians} from timeline where {STEADY} and sampled")
    return [phase for phase, median in zip(reading.phases, row, strict=True) if median]


def _regular(ticks: Sequence[int]) -> bool:
    """Whether the first tick and the distances between ticks are about equal."""
    return len(ticks) > 1 and all(
        abs(tick - ticks[0] * at) <= at for at, tick in enumerate(ticks, 1)
    )
