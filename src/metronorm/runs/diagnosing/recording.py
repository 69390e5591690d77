"""Rules about the record itself: the cost of the clock, sampled phases, lost records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Finding
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS
from metronorm.text import counted, percent, short_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

# The clock is to take 1% of a usual tick at most, and on a busy machine everything takes twice as
# long. Above 5% it distorts the other times.
CLOCK_SHARE = 0.02
CLOCK_SHARE_WARNING = 0.05


def clock_cost(reading: Reading) -> Iterator[Finding]:
    """Find that the clock takes more of a usual tick than it should.

    The median tick counts: in a mean, one tick in which another process had the CPU meanwhile
    outweighs hundreds of others.
    """
    rows = [
        (row["usual_clock"] / row["usual_tick"], row)
        for row in reading.totals
        if row["usual_tick"] and row["usual_clock"] and row["ticks"] >= MINIMUM_TICKS
    ]
    share, row = max(rows, key=lambda pair: pair[0], default=(0.0, {}))
    if share <= CLOCK_SHARE:
        return
    yield Finding(
        rule="clock-cost",
        severity="warning" if share > CLOCK_SHARE_WARNING else "notice",
        what=f"The clock itself takes {short_time(row['usual_clock'])} of a usual tick"
        f"{reading.of_rank(row['rank'])}, {percent(share)} of its time.",
        advice="Ticks are very short, or have very many phases and metrics: use fewer phases, log "
        "fewer metrics, or put more work into a tick.",
        evidence={"share": share, "rank": row["rank"], "usual_ns": row["usual_clock"]},
    )


def sampling(reading: Reading) -> Iterator[Finding]:
    """Find that phases were not measured in every tick."""
    events = [event for event in reading.events if event.name == "sampling"]
    if not events:
        return
    last = max(events, key=lambda event: event.number("every"))
    every = int(last.number("every"))
    if every < 2:
        return
    yield Finding(
        rule="sampling",
        severity="notice",
        what=f"To limit its cost, the clock measured phases only in one of {every:,} ticks, from "
        f"tick {last.tick:,} on{reading.of_rank(last.rank)}.",
        advice="The shares of phases are those of the measured ticks. To measure all ticks, use "
        "fewer phases in a tick, put more work into a tick, or give the clock a larger `budget`.",
        evidence={"every": every, "rank": last.rank},
        ticks=[last.tick],
    )


def lost_records(reading: Reading) -> Iterator[Finding]:
    """Find records that could not be written, or ticks that are missing without an event."""
    events = [event for event in reading.events if event.name == "dropped"]
    if events:
        counts: dict[tuple[int, int, object], int] = {}
        for event in events:  # each counts all records that its tape has lost so far
            tape = (event.attempt, event.rank, event.fields.get("kind"))
            counts[tape] = max(counts.get(tape, 0), int(event.number("records")))
        records = sum(counts.values())
        firsts = sorted({int(event.number("first_tick")) or event.tick for event in events})
        last = max(int(event.number("last_tick")) or event.tick for event in events)
        error = events[-1].fields.get("error")
        yield Finding(
            rule="dropped",
            severity="critical",
            what=f"{counted(records, 'record')} between ticks {firsts[0]:,} and {last:,} could not "
            f"be written" + (f" ({error})." if error else "."),
            advice="Free space on the disk of the run, or use another disk. The lost records "
            "cannot be recovered.",
            evidence={"records": records, "first_tick": firsts[0], "last_tick": last},
            ticks=firsts[:TICKS_NAMED],
        )
        return
    gaps = [(row["last"] - row["first"] + 1 - row["ticks"], row["rank"]) for row in reading.totals]
    missing, rank = max(gaps, default=(0, 0))
    if missing <= 0:
        return
    ticks = reading.sql(
        f"""select tick from (
                select tick, lead(tick) over (order by tick) as following
                from ticks where rank = {rank})
            where following > tick::HUGEINT + 1 order by tick limit {TICKS_NAMED}"""
    )
    begins = [tick + 1 for (tick,) in ticks]
    verb = "has" if missing == 1 else "have"
    yield Finding(
        rule="missing-ticks",
        severity="warning",
        what=f"{counted(missing, 'tick')}{reading.of_rank(rank)} {verb} no record; the first is "
        f"tick {begins[0]:,}.",
        advice="See what `metronorm show` reports about damaged lines. A loop that sets "
        "`clock.tick` may also have skipped them.",
        evidence={"missing": missing, "rank": rank},
        ticks=begins,
    )
