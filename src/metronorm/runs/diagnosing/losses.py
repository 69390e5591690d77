"""Losses that jump and come back, and losses that rise and stay up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Finding, counted
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS
from metronorm.runs.diagnosing.trend import SIGMAS_PER_MAD
from metronorm.runs.diagnosing.values import is_loss
from metronorm.store.parquet_parts import batches
from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.runs.diagnosing.reading import Reading

# A spike is above the median of the ticks before it by this many sigmas, told by their median
# deviation, and by a tenth of that median.
SPIKE_SIGMAS = 10
SPIKE_RISE = 0.10
BEFORE = 50
MINIMUM_BEFORE = 20
# It is over at the first value within these of what was before.
OVER_SIGMAS = 3
# A loss that jumps more often than in one of so many ticks is like that: none of it is a spike.
TICKS_PER_SPIKE = 100
# A spike as long as this changed the parameters for the worse; a shorter one is an odd batch.
LONG_SPIKE = 3

# Of so many losses, in the order of their columns, each is looked at, some at a time.
MOST_LOSSES = 200
LOSSES_AT_ONCE = 50

# Stretches of the run; a divergence has to last for the last tenth of them.
BINS = 20
LAST = BINS // 10
# It must undo this part of what was learned, and be this part of the best level, and of the first
# values (next to which a loss that has learned all there is may do what it likes), and more than
# chance would have the lowest of the stretches lie below the others.
UNDONE = 0.25
RISEN = 0.10
RISEN_OF_BEGUN = 0.01
FIRST_VALUES = 5
RISEN_SIGMAS = 6
_HELD_OUT = ("val", "test", "eval")


@dataclass(frozen=True)
class Spike:
    """Where a loss jumped, from what to what, and the tick it was back at; None: not yet."""

    tick: int
    before: float
    peak: float
    back: int | None


@dataclass(frozen=True)
class Rise:
    """From its best level, at a tick, to its last."""

    tick: int
    best: float
    last: float
    first: float
    since: int


def losses(reading: Reading) -> Iterator[Finding]:
    """A loss that ends far above its best, or that jumped and came back."""
    for metric, series in _all_series(reading):
        found = _spikes(series)
        rise = _rise(series)
        if rise is not None:
            found = [spike for spike in found if spike.back is not None]
            yield _divergence(metric, rise)
        if found and len(found) <= max(len(series) / TICKS_PER_SPIKE, 2):
            yield _spike_finding(metric, found, series[-1][0])


def _divergence(metric: str, rise: Rise) -> Finding:
    if metric.startswith(_HELD_OUT):
        advice = (
            f"Take the checkpoint of about tick {rise.tick:,}; if the training loss still falls, "
            "the model overfits: stop earlier, regularize, or add data."
        )
    else:
        advice = (
            "Start a new run with a lower learning rate, a longer warm-up or a clipped gradient; "
            "or go on from a checkpoint of about "
            f"tick {rise.since:,}, if your loop takes such a change on resume."
        )
    return Finding(
        rule="divergence",
        severity="critical" if rise.last > rise.first else "warning",
        what=f"{metric} was at {rise.best:.4g} about tick {rise.tick:,}, began to rise about tick "
        f"{rise.since:,} and stays at {rise.last:.4g}.",
        advice=advice,
        evidence={
            "best": rise.best,
            "best_tick": rise.tick,
            "last": rise.last,
            "since_tick": rise.since,
        },
        ticks=[rise.since],
    )


def _spike_finding(metric: str, found: Sequence[Spike], end: int) -> Finding:
    worst = max(found, key=lambda spike: spike.peak - spike.before)
    longest = max((spike.back or end + 1) - spike.tick for spike in found)
    if worst.back is None:
        outcome = "is not back yet"
    else:
        outcome = f"was back after {counted(worst.back - worst.tick, 'tick')}"
    times = "once, " if len(found) == 1 else f"{len(found)} times, worst "
    return Finding(
        rule="loss-spike",
        severity="warning" if longest >= LONG_SPIKE else "notice",
        what=f"{metric} jumped {times}at tick {worst.tick:,} from {worst.before:.4g} to "
        f"{worst.peak:.4g}, and {outcome}.",
        advice="See the batches of these ticks; in a new run, against spikes help clipping the "
        "gradient, a lower learning rate, and a shorter memory of the second moments (beta2).",
        evidence={
            "spikes": len(found),
            "worst_tick": worst.tick,
            "before": worst.before,
            "peak": worst.peak,
            "longest_ticks": longest,
            "not_back": sum(spike.back is None for spike in found),
        },
        ticks=[spike.tick for spike in found[:TICKS_NAMED]],
    )


def _all_series(reading: Reading) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    metrics = [metric for metric in reading.metrics if is_loss(metric)][:MOST_LOSSES]
    for batch in batches(metrics, LOSSES_AT_ONCE):
        table = reading.table_of(batch)
        # of a wide run every look at its parts costs more than these columns
        table.sql("create or replace temp table losses as select * from ticks")
        for metric in batch:
            yield metric, _series(reading, metric)


def _series(reading: Reading, metric: str) -> list[tuple[Any, ...]]:
    """Tick, value (mean of the ranks), and the median before it with the noise around that."""
    name = identifier(metric)
    before = f"over (order by tick rows between {BEFORE} preceding and 1 preceding)"
    return reading.sql(
        f"""with seen as (select tick, avg({name}) as value from losses
                          where isfinite({name}) group by tick),
            levels as (select *, median(value) {before} as level, count(*) {before} as known
                       from seen)
            select tick, value, level, {SIGMAS_PER_MAD} * median(abs(value - level)) {before}, known
            from levels order by tick"""
    )


def _spikes(series: Sequence[tuple[Any, ...]]) -> list[Spike]:
    found: list[Spike] = []
    over = None
    for tick, value, level, noise, known in series:
        if over is not None:
            spike = found[-1]
            if value <= over:
                found[-1] = Spike(spike.tick, spike.before, spike.peak, tick)
                over = None
            elif value > spike.peak:
                found[-1] = Spike(spike.tick, spike.before, value, None)
        elif known >= MINIMUM_BEFORE and noise:
            rise = value - level
            if rise > SPIKE_SIGMAS * noise and rise > SPIKE_RISE * abs(level):
                found.append(Spike(tick, level, value, None))
                over = level + OVER_SIGMAS * noise
    return found


def _rise(series: Sequence[tuple[Any, ...]]) -> Rise | None:
    count = len(series)
    if count < max(MINIMUM_TICKS, BINS):
        return None
    ticks = [row[0] for row in series]
    values = [row[1] for row in series]
    edges = [count * i // BINS for i in range(BINS + 1)]
    levels = [median(values[edges[i] : edges[i + 1]]) for i in range(BINS)]
    at = min(range(BINS), key=levels.__getitem__)
    best, last = levels[at], min(levels[-LAST:])
    steps = median(abs(b - a) for a, b in pairwise(values))
    # of differences of two, in a median of count / BINS
    noise = SIGMAS_PER_MAD / 2**0.5 * steps * 1.25 / (count / BINS) ** 0.5
    rise = last - best
    begun = RISEN_OF_BEGUN * abs(median(values[:FIRST_VALUES]))
    if rise <= max(UNDONE * (levels[0] - best), RISEN * abs(best), begun, RISEN_SIGMAS * noise):
        return None
    quarter = best + rise / 4
    since = max(
        (i for i in range(edges[at], count) if median(values[max(i - 4, 0) : i + 5]) <= quarter),
        default=edges[at],
    )
    middle = (edges[at] + edges[at + 1]) // 2
    return Rise(ticks[middle], best, last, levels[0], ticks[since])
