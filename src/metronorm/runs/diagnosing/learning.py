"""Runs that learn nothing: a learning rate of 0, a loss that is flat from the start."""

from __future__ import annotations

import math
from itertools import accumulate, groupby, pairwise
from statistics import median
from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import Evidence, Finding, counted
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS
from metronorm.runs.diagnosing.trend import SIGMAS_PER_MAD, mann_kendall
from metronorm.store.sql_columns import identifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.runs.diagnosing.reading import Reading

    Series = list[tuple[int, float]]

# So many ticks on end, and so much of what is on record: a warm-up may begin, a schedule end at 0.
ZERO_TICKS = MINIMUM_TICKS
ZERO_SHARE = 0.05
# With a loss that surely falls meanwhile, something learns, at another rate than the one on record.
LEARNING_SIGMAS = -3.0

# The fifths of the run lie so close together, beside the level itself and beside the error of each,
# its stretches do not fall on the whole, and it neither began higher nor ends lower: of noise alone
# three runs in four pass; of a loss that falls by a hundredth, hardly one.
FLAT_TICKS = 200
FLAT_WITHIN = 0.01
FLAT_SIGMAS = 4.0
FALLING_SIGMAS = -1.0
END_SIGMAS = 3.0
FIFTHS = 5
BINS = 20

# What training itself makes smaller. Others may be flat: those of networks that compete, say.
_LOSSES = ("loss", "train_loss", "training_loss", "train/loss", "training/loss")
_RATES = ("learning_rate", "lr", "train/learning_rate", "train/lr")


def learning(reading: Reading) -> Iterator[Finding]:
    """A learning rate of 0 for many ticks, or a loss that is flat from the start."""
    rates = _series(reading, [name for name in reading.metrics if name in _RATES])
    losses = {metric: _series(reading, [metric]) for metric in reading.metrics if metric in _LOSSES}
    zero = _longest_zero(rates)
    if zero and not any(_learns(series, zero) for series in losses.values()):
        yield _zero_finding(rates, zero)
        if len(zero) == len(rates):
            return
    for metric, series in losses.items():
        error = _error_if_flat(series)
        if error is not None and not _still_warming_up(rates):
            yield _flat_finding(metric, series, error)


def _zero_finding(rates: Series, zero: Series) -> Finding:
    first, last = zero[0][0], zero[-1][0]
    evidence: Evidence = {
        "first_tick": first,
        "last_tick": last,
        "records": len(zero),
        "records_share": len(zero) / len(rates),
    }
    if len(zero) == len(rates):
        what = f"The learning rate is 0 in all of {counted(len(rates), 'tick')} that tell it."
        advice = (
            "Nothing is learned. See whether the schedule is stepped, whether its warm-up ever "
            "ends, and which rate the optimizer's parameter groups were given."
        )
    else:
        what = f"The learning rate is 0 from tick {first:,} to {last:,}."
        advice = "Nothing is learned there. See what the schedule does at these ticks."
        if last == rates[-1][0]:
            advice = (
                "Nothing is learned there. Give the schedule of a new run as many steps as it has "
                "ticks, or end it where the schedule ends."
            )
    return Finding(
        rule="zero-learning-rate",
        severity="critical" if len(zero) == len(rates) else "warning",
        what=what,
        advice=advice,
        evidence=evidence,
        ticks=[first, last],
    )


def _flat_finding(metric: str, series: Series, error: float) -> Finding:
    level = median(value for _, value in series)
    within = FLAT_SIGMAS * error / abs(level)
    return Finding(
        rule="flat-loss",
        severity="warning",
        what=f"{metric} has not moved from {level:.4g}, where it began, in "
        f"{counted(len(series), 'tick')}"
        + (f": to within {within:.2%}." if error else ": it is the same in all of them."),
        advice="Unless the model was trained before: see whether gradients reach the parameters (a "
        "norm above 0; no detach or no_grad on the way), whether the optimizer has the parameters "
        "of this model, and whether the learning rate is far too small. A loop that learns can "
        "learn a single batch by heart.",
        evidence={
            "level": level,
            "within_share": within,
            "records": len(series),
            "first_tick": series[0][0],
            "last_tick": series[-1][0],
        },
        ticks=[series[0][0]],
    )


def _series(reading: Reading, metrics: Sequence[str]) -> Series:
    """Tick and value: the mean of the ranks; of several metrics the largest."""
    if not metrics:
        return []
    values = ", ".join(f"avg({identifier(metric)})" for metric in metrics)
    query = f"select tick, greatest({values}) as value from ticks group by tick order by tick"
    rows = reading.table_of(metrics).sql(query).fetchall()
    return [(tick, value) for tick, value in rows if value is not None]


def _longest_zero(rates: Series) -> Series:
    """The longest stretch of rates that are 0; empty if it is not long."""
    stretches = groupby(rates, lambda row: row[1] == 0)
    longest = max((list(rows) for is_zero, rows in stretches if is_zero), key=len, default=[])
    return longest if len(longest) >= max(ZERO_TICKS, ZERO_SHARE * len(rates)) else []


def _learns(loss: Series, zero: Series) -> bool:
    """Whether a loss falls while the learning rate is said to be 0."""
    first, last = zero[0][0], zero[-1][0]
    values = [value for tick, value in loss if first <= tick <= last and math.isfinite(value)]
    return mann_kendall(_levels(values, min(BINS, len(values)))) < LEARNING_SIGMAS


def _still_warming_up(rates: Series) -> bool:
    """Whether the learning rate rises to the end: what is not learned yet may well be."""
    values = [value for _, value in rates]
    return bool(values) and values[-1] == max(values) > values[len(values) * 9 // 10 - 1]


def _error_if_flat(series: Series) -> float | None:
    """The standard error of a fifth of a loss that does not move; None if it does, or may do."""
    ticks, values = [tick for tick, _ in series], [value for _, value in series]
    if len(values) < FLAT_TICKS or not all(map(math.isfinite, values)):
        return None
    if ticks[0] > 2 * median(later - earlier for earlier, later in pairwise(ticks)):
        return None  # what came before is not on record
    fifths = _levels(values, FIFTHS)
    level, fifth = median(values), len(values) // FIFTHS
    above = [value - level for value in values]
    noise = SIGMAS_PER_MAD * median(
        abs(value - fifths[at * FIFTHS // len(values)]) for at, value in enumerate(values)
    )
    error = 1.25 * noise / math.sqrt(len(values) / FIFTHS)  # of a median
    if (
        not level
        or FLAT_SIGMAS * error > FLAT_WITHIN * abs(level)
        or max(fifths) - min(fifths) > FLAT_SIGMAS * error
        or mann_kendall(_levels(values, BINS)) <= FALLING_SIGMAS
        or _far_above(above[:fifth], noise)
        or _far_above([-each for each in above[: -fifth - 1 : -1]], noise)
    ):
        return None
    return error


def _far_above(values: Sequence[float], noise: float) -> bool:
    """Whether the first 1, 2, 4, ... values together are above 0 by more than chance."""
    sums = dict(enumerate(accumulate(values), 1))
    counts = (2**power for power in range(len(values).bit_length()))
    return any(sums[count] > END_SIGMAS * noise * math.sqrt(count) for count in counts)


def _levels(values: Sequence[float], bins: int) -> list[float]:
    """The median of each of as many stretches."""
    edges = [len(values) * i // bins for i in range(bins + 1)] if bins else []
    return [median(values[begin:end]) for begin, end in pairwise(edges)]
