"""Rules about losses that jump and come back, and losses that rise and stay high."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from metronorm.runs.diagnosing.finding import TICKS_NAMED, Finding
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS
from metronorm.runs.directions import is_loss
from metronorm.runs.trend import SIGMAS_PER_MAD, edges, levels
from metronorm.store.parquet_parts import batches
from metronorm.store.sql_columns import identifier
from metronorm.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.runs.diagnosing.reading import Reading

# A spike is above the median of the ticks before it by both: this number of sigmas (estimated from
# the median deviation), and this part of that median.
SPIKE_SIGMAS = 10
SPIKE_RISE = 0.10
BEFORE = 50
MINIMUM_BEFORE = 20
# A spike ends at the first value within this number of sigmas of the median before it.
OVER_SIGMAS = 3
# A loss that jumps more often than once in this number of ticks always does: it has no spikes.
TICKS_PER_SPIKE = 100
# A spike of this number of ticks made the parameters worse; a shorter one is an unusual batch.
LONG_SPIKE = 3

# The largest number of losses to look at, in the order of their columns, and how many at a time.
MOST_LOSSES = 200
LOSSES_AT_ONCE = 50

# The stretches of the run. A divergence must last for the last tenth of them.
BINS = 20
LAST = BINS // 10
# The rise must be more than each of: this part of what was learned; this part of the best level;
# this part of the first values (a loss near 0 may change by any factor); and what chance explains,
# because the best level is the lowest of all stretches.
UNDONE = 0.25
RISEN = 0.10
RISEN_OF_BEGUN = 0.01
FIRST_VALUES = 5
RISEN_SIGMAS = 6
_HELD_OUT = ("val", "test", "eval")


@dataclass(frozen=True)
class Spike:
    """A jump of a loss: its tick, its values, and the tick when the loss was back, or None."""

    tick: int
    before: float
    peak: float
    back: int | None


@dataclass(frozen=True)
class Rise:
    """A rise of a loss from its best level, at `tick`, to its last level.

    `first` is the first level, `since` the tick at which the rise began.
    """

    tick: int
    best: float
    last: float
    first: float
    since: int


def losses(reading: Reading) -> Iterator[Finding]:
    """Find a loss that ends far above its best level, or that jumped and came back."""
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
            f"Use a checkpoint of about tick {rise.tick:,}. If the training loss still falls, the "
            "model overfits: stop earlier, regularize, or add data."
        )
    else:
        advice = (
            "Start a new run with a lower learning rate, a longer warm-up or a clipped gradient. "
            "If your loop allows such a change on resume, continue from a checkpoint before tick "
            f"{rise.since:,}."
        )
    return Finding(
        rule="divergence",
        severity="critical" if rise.last > rise.first else "warning",
        what=f"{metric} was {rise.best:.4g} at about tick {rise.tick:,}, began to rise at about "
        f"tick {rise.since:,}, and stays at {rise.last:.4g}.",
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
    times = "once, " if len(found) == 1 else f"{len(found)} times, the worst "
    return Finding(
        rule="loss-spike",
        severity="warning" if longest >= LONG_SPIKE else "notice",
        what=f"{metric} jumped {times}at tick {worst.tick:,} from {worst.before:.4g} to "
        f"{worst.peak:.4g}, and {outcome}.",
        advice="See the batches of these ticks. In a new run, a clipped gradient, a lower learning "
        "rate, or a smaller beta2 (the memory of the second moments) make spikes rarer.",
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
        # copied once: in a run with many columns, every read of its parts costs more than the copy
        table.sql("create or replace temp table losses as select * from ticks")
        for metric in batch:
            yield metric, _series(reading, metric)


def _series(reading: Reading, metric: str) -> list[tuple[Any, ...]]:
    """Tick, value (mean of the ranks), the median before it, the noise, and how many are known."""
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
    bounds, medians = edges(count, BINS), levels(values, BINS)
    at = min(range(BINS), key=medians.__getitem__)
    best, last = medians[at], min(medians[-LAST:])
    steps = median(abs(b - a) for a, b in pairwise(values))
    # steps are differences of two values; a level is the median of count / BINS values
    noise = SIGMAS_PER_MAD / 2**0.5 * steps * 1.25 / (count / BINS) ** 0.5
    rise = last - best
    begun = RISEN_OF_BEGUN * abs(median(values[:FIRST_VALUES]))
    if rise <= max(UNDONE * (medians[0] - best), RISEN * abs(best), begun, RISEN_SIGMAS * noise):
        return None
    quarter = best + rise / 4
    since = max(
        (i for i in range(bounds[at], count) if median(values[max(i - 4, 0) : i + 5]) <= quarter),
        default=bounds[at],
    )
    middle = (bounds[at] + bounds[at + 1]) // 2
    return Rise(ticks[middle], best, last, medians[0], ticks[since])
