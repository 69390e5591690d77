"""Rules about the time of ticks: slow ticks, a drift over the run, the warm-up."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Evidence, Finding, in_phase
from metronorm.runs.diagnosing.garbage import ADVICE, much_garbage
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS, STEADY, WARM, WARM_UP_TICKS
from metronorm.runs.diagnosing.shares import waits_for_data
from metronorm.runs.trend import SIGMAS_PER_MAD, mann_kendall, period, step
from metronorm.store.schema import UNATTRIBUTED
from metronorm.store.sql_columns import identifier
from metronorm.text import counted, percent, short_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.runs.diagnosing.reading import Reading

# A slow tick is above the median of the ticks around it by all three: this number of sigmas
# (estimated from the median deviation), this part of the median, and more time than an operating
# system takes for itself.
SLOW_SIGMAS = 6
SLOW_EXCESS = 0.5
SLOW_NS = 1_000_000
NEIGHBOURS = 50  # ticks on each side
# The slow ticks together must cost at least this share of the time.
SLOW_SHARE = 0.02

# How much slower the last fifth of the run is than the first. Machines vary by less than a tenth.
DRIFT = 0.10
DRIFT_TICKS = 100  # fewer ticks show no trend
BINS = 20
FIFTH = BINS // 5
DRIFT_SIGMAS = 3  # of the Mann-Kendall test; by chance in one run of 700

# A warm-up is found if it takes both this share of the time and this long.
WARM_UP_SHARE = 0.10
WARM_UP_NS = 10e9

_LOOK = {
    "data": "See what the loader does at these ticks: a new epoch, a new file, a slow disk.",
    "forward": "See whether these ticks have inputs of a new shape, which need a new compilation, "
    "and whether other processes ran on the machine.",
    "communicate": "Another rank was late or the network slow: see the ticks of the other ranks.",
    UNATTRIBUTED: "Put the parts of the loop that have no phase into `clock.phase`; the cause may "
    "also be logging or another process.",
}
_LOOK["backward"] = _LOOK["forward"]
_LOOK_OTHERWISE = "See what this phase does at these ticks, and what else ran on the machine."


def slow_ticks(reading: Reading) -> Iterator[Finding]:
    """Find single ticks that take far longer than those around them, for no planned reason.

    Ticks that wait for data or for the garbage collector are left out if the rules about these
    report them.
    """
    if reading.steady_ticks < MINIMUM_TICKS:
        return
    names = [identifier(f"{phase}_ns") for phase in reading.phases]
    medians = ", ".join(
        f"(select median({name}) from timeline where {STEADY} and sampled)" for name in names
    )
    usual = reading.one(f"select {medians}") if names else ()
    excesses = "".join(
        f", sum(greatest({name} - {middle or 0}, 0)) filter (sampled)::DOUBLE"
        for name, middle in zip(names, usual, strict=True)
    )
    around = f"over (order by tick rows between {NEIGHBOURS} preceding and {NEIGHBOURS} following)"
    row = reading.one(
        f"""with levels as (
                select *, median(own) {around} as level
                from timeline where {STEADY} and own is not null),
            spreads as (select *, median(abs(own - level)) {around} as deviation from levels)
            select count(*), sum(own - level), median(level), max(own),
                   arg_max(tick, own - level, {TICKS_NAMED}), list(tick order by tick),
                   (select sum(wall) from timeline),
                   sum(least(gc, own - level))::DOUBLE {excesses}
            from spreads
            where own > level + greatest({SLOW_SIGMAS * SIGMAS_PER_MAD} * deviation,
                                         {SLOW_EXCESS} * level, {SLOW_NS})
                  and not ({_reported(reading)})"""
    )
    count, excess, level, longest, worst, ticks, wall, in_gc, *by_phase = row
    if not count or excess <= SLOW_SHARE * wall:
        return
    share = float(excess / wall)
    causes = {
        phase: ns
        for phase, ns in zip(reading.phases, by_phase, strict=True)
        if ns  # None if the phases of none of these ticks were measured
    }
    cause = max(causes, key=lambda phase: causes[phase], default=None)
    every = period(ticks)
    evidence: Evidence = {
        "share": share,
        "ticks": count,
        "excess_ns": float(excess),
        "usual_ns": level,
        "longest_ns": longest,
    }
    evidence |= {f"excess_in_{phase}_ns": ns for phase, ns in causes.items()}
    advice = _LOOK.get(cause or UNATTRIBUTED, _LOOK_OTHERWISE)
    words = ""
    if in_gc:
        evidence["excess_in_gc_ns"] = in_gc
    if in_gc > excess / 2:
        words = f", {percent(in_gc / float(excess))} of it in Python's garbage collector"
        advice = ADVICE
    elif cause is not None:
        part = causes[cause] / sum(causes.values())
        words = f", {percent(part)} of it {in_phase(cause)}"
    if every:
        evidence["every_ticks"] = every
        words += f"; they come every {every:,} ticks"
    yield Finding(
        rule="slow-ticks",
        severity="warning",
        what=f"{counted(count, 'tick')} took up to {short_time(longest)} instead of the usual "
        f"{short_time(level)}: {percent(share)} of the time{words}.",
        advice=advice,
        evidence=evidence,
        ticks=sorted(worst),
    )


def _reported(reading: Reading) -> str:
    """SQL: whether another rule reports most of a slow tick's excess."""
    names = []
    if waits_for_data(reading):
        names.append("data_ns")
    if much_garbage(reading):
        names.append("gc")
    usual = [f"(select median({name}) from timeline where {STEADY})" for name in names]
    return (
        " or ".join(
            f"{name} - {median} > (own - level) / 2"
            for name, median in zip(names, usual, strict=True)
        )
        or "false"
    )


def drift(reading: Reading) -> Iterator[Finding]:
    """Find that ticks become slower although they do not do more work."""
    if reading.steady_ticks < DRIFT_TICKS:
        return
    names = [
        "own",
        "own / nullif(work, 0)",
        *(identifier(f"{phase}_ns") for phase in reading.phases),
    ]
    medians = ", ".join(f"median({name})" for name in names)
    rows = reading.sql(
        f"""with binned as (
                select *, ntile({BINS}) over (order by tick) as bin
                from timeline where {STEADY} and own is not null)
            select min(tick), {medians} from binned group by bin order by bin"""
    )
    if len(rows) < BINS:
        return
    begins, own, per_work, *phases = (list(column) for column in zip(*rows, strict=True))
    changes = [
        _change(values) for values in (own, per_work) if all(value is not None for value in values)
    ]
    at, level = step(own, FIFTH)
    jumps = level and min(own[at:]) > max(own[:at])
    if min(changes) <= DRIFT or not (jumps or mann_kendall(own) > DRIFT_SIGMAS):
        return
    first, last = median(own[:FIFTH]), median(own[-FIFTH:])
    grown = {
        phase: median(values[-FIFTH:]) - median(values[:FIFTH])
        for phase, values in zip(reading.phases, phases, strict=True)
        if None not in values
    }
    most = max(grown, key=lambda phase: grown[phase], default=None)
    where = ""
    if most is not None and grown[most] > 0:
        where = f", most of it {in_phase(most)}"
    since = f"since about tick {begins[at]:,}" if jumps else "gradually"
    evidence: Evidence = {
        "change": last / first - 1,
        "first_fifth_ns": first,
        "last_fifth_ns": last,
    }
    evidence |= {f"grown_in_{phase}_ns": ns for phase, ns in grown.items()}
    if jumps:
        evidence["since_tick"] = begins[at]
    yield Finding(
        rule="drift",
        severity="warning",
        what=f"Ticks have become {percent(last / first - 1)} slower {since}: {short_time(last)} "
        f"instead of {short_time(first)}{where}.",
        advice="See what else ran on the machine, its temperatures and clock rates (resources), "
        "and whether something grows with the run: lists of results, graphs that are kept."
        if not jumps
        else "See what changed on the machine then: another process, throttling by heat, a slower "
        "disk or another host after a resume.",
        evidence=evidence,
        ticks=[begins[at]] if jumps else [],
    )


def warm_up(reading: Reading) -> Iterator[Finding]:
    """Find that the first ticks of the attempts take much of the time."""
    if reading.steady_ticks < MINIMUM_TICKS:
        return
    usual, wall, excess, longest, attempts = reading.one(
        f"""with usual as (select median(own) as own from timeline where {STEADY})
            select usual.own, sum(wall),
                   sum(coalesce(t.own, wall) - usual.own) filter (not ({WARM})),
                   arg_max(tick, coalesce(t.own, wall)) filter (not ({WARM})),
                   count(distinct attempt)
            from timeline t, usual group by usual.own"""
    )
    if usual is None or excess < max(WARM_UP_NS, WARM_UP_SHARE * wall):
        return
    share = float(excess / wall)
    yield Finding(
        rule="warm-up",
        severity="notice",
        what=f"{percent(share)} of the time was spent in the first {WARM_UP_TICKS} ticks of "
        f"{counted(attempts, 'attempt')}: {short_time(excess)} more than in as many later ticks.",
        advice="A longer run makes the share smaller. Compiled code can be cached between runs, "
        "and inputs of one shape are compiled only once.",
        evidence={"share": share, "excess_ns": float(excess), "usual_ns": usual},
        ticks=[longest],
    )


def _change(values: list[Any]) -> float:
    first, last = median(values[:FIFTH]), median(values[-FIFTH:])
    return float(last / first - 1) if first else 0.0
