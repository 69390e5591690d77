"""Ticks in which the loop stood still for a long time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Evidence, Finding, counted
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS, STEADY
from metronorm.store.sql_columns import identifier
from metronorm.text import short_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.runs.diagnosing.reading import Reading

# As long as this, and as so many usual ticks; the clock's own watch waits for a minute.
STALL_NS = 10e9
STALL_TIMES = 20
# Where more ticks are like that, or they come regularly, the loop does it: other rules tell.
STALLS = 3
TICKS_PER_STALL = 1000
# Less of the time is only good to know, unless the clock's watch has called it a stall.
STALL_SHARE = 0.02


@dataclass(frozen=True)
class Stall:
    """A tick in which the loop stood still: for how long, and in which phase; "": not known.

    `told` says that the clock's watch has noticed it and has the stacks.
    """

    tick: int
    ns: float
    phase: str = ""
    rank: int = 0
    told: bool = False


def find_stalls(reading: Reading) -> list[Stall]:
    """Ticks that took very long, of a loop in which few do; of the lowest rank.

    What is in a phase that most ticks lack is not counted: it has a name because it takes time. Nor
    is the last tick, which has what came after the loop.
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
    """The loop stood still for a long time."""
    told = {
        (event.tick, event.rank): event.number("seconds") * 1e9
        for event in reading.events
        if event.name == "stall"
    }
    # the watch says how many ticks had ended
    found = [
        Stall(each.tick, each.ns, each.phase, each.rank, told=True)
        if {(each.tick, each.rank), (each.tick - 1, each.rank)} & set(told)
        else each
        for each in reading.stalls
    ]
    known = {(each.tick - back, each.rank) for each in found for back in (0, 1)}
    found += [
        Stall(tick, ns, "", rank, told=True)
        for (tick, rank), ns in told.items()
        if (tick, rank) not in known
    ]
    if found:
        yield _finding(reading, sorted(found, key=lambda each: each.tick))


def _finding(reading: Reading, found: list[Stall]) -> Finding:
    longest = max(found, key=lambda each: each.ns)
    in_ticks = float(sum(each.ns for each in reading.stalls))
    share = in_ticks / float(reading.one("select sum(wall) from timeline")[0]) if in_ticks else 0.0
    times = "once, " if len(found) == 1 else f"{counted(len(found), 'time')}, longest "
    more = "" if longest.phase else " and more"
    where = ""
    if longest.phase:
        where = f", {'in no phase' if longest.phase == 'unattributed' else f'in {longest.phase}'}"
    evidence: Evidence = {"share": share} if share else {}
    evidence |= {
        "stalls": len(found),
        "seconds": longest.ns / 1e9,
        "rank": longest.rank,
    }
    if any(each.told for each in found):
        advice = "The event `stall` holds where every thread was: read its stacks in run.events()."
    else:
        advice = (
            "See what the machine did then, in run.resources(): disk, swap, other processes. In a "
            "loop of your own, put what is long on purpose into a `clock.phase`; the next time "
            f"`Clock(stall=StallWatch(at_least_seconds={STALL_NS / 2e9:.0f}))` has the stacks of "
            "all threads."
        )
    return Finding(
        rule="stall",
        severity="warning" if share > STALL_SHARE or any(each.told for each in found) else "notice",
        what=f"The loop stood still {times}at tick {longest.tick:,}"
        f"{reading.of_rank(longest.rank)}, for {short_time(longest.ns)}{more}{where}.",
        advice=advice,
        evidence=evidence,
        ticks=[each.tick for each in found][:TICKS_NAMED],
    )


def _usual_phases(reading: Reading) -> list[str]:
    """Those that are in most ticks."""
    if not reading.phases:
        return []
    medians = ", ".join(f"median({identifier(f'{phase}_ns')})" for phase in reading.phases)
    row = reading.one(f"select {medians} from timeline where {STEADY} and sampled")
    return [phase for phase, median in zip(reading.phases, row, strict=True) if median]


def _regular(ticks: Sequence[int]) -> bool:
    """Whether each comes about as long after the one before as the first after the beginning."""
    return len(ticks) > 1 and all(
        abs(tick - ticks[0] * at) <= at for at, tick in enumerate(ticks, 1)
    )
