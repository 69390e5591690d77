"""Rules about runs that learn nothing: a learning rate of 0, a loss that is flat from the start."""

from __future__ import annotations

import math
from itertools import accumulate, groupby, pairwise
from statistics import median
from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import Evidence, Finding
from metronorm.runs.diagnosing.reading import MINIMUM_TICKS
from metronorm.runs.trend import SIGMAS_PER_MAD, levels, mann_kendall
from metronorm.store.sql_columns import identifier
from metronorm.text import counted, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.runs.diagnosing.reading import Reading

    Series = list[tuple[int, float]]

# The rate must be 0 for this number of ticks in a row, and this share of the record: a warm-up may
# begin at 0, and a schedule may end at 0.
ZERO_TICKS = MINIMUM_TICKS
ZERO_SHARE = 0.05
# If a loss falls by this trend meanwhile, the run learns, with a rate that is not on record.
LEARNING_SIGMAS = -3.0

# A loss is flat if the fifths of the run are this close (as part of the level, and in standard
# errors of a fifth), its stretches do not fall, and it neither began higher nor ends lower. Of runs
# with noise alone, three of four pass; of runs whose loss falls by a hundredth, hardly any.
FLAT_TICKS = 200
FLAT_WITHIN = 0.01
FLAT_SIGMAS = 4.0
FALLING_SIGMAS = -1.0
END_SIGMAS = 3.0
FIFTHS = 5
BINS = 20

# Losses that training makes smaller. Others may be flat, such as those of competing networks.
_LOSSES = ("loss", "train_loss", "training_loss", "train/loss", "training/loss")
_RATES = ("learning_rate", "lr", "train/learning_rate", "train/lr")


def learning(reading: Reading) -> Iterator[Finding]:
    """Find a learning rate of 0 for many ticks, or a loss that is flat from the start."""
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
        what = f"The learning rate is 0 in all {counted(len(rates), 'tick')} that logged it."
        advice = (
            "Nothing is learned. Check that the loop steps the schedule, that its warm-up ends, "
            "and which learning rate the parameter groups of the optimizer have."
        )
    else:
        what = f"The learning rate is 0 from tick {first:,} to {last:,}."
        advice = "Nothing is learned there. See what the schedule does at these ticks."
        if last == rates[-1][0]:
            advice = (
                "Nothing is learned there. In a new run, give the schedule as many steps as the "
                "run has ticks, or end the run with the schedule."
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
        what=f"{metric} began at {level:.4g} and has not moved in {counted(len(series), 'tick')}"
        + (
            f": by no more than {percent(within)}." if error else ": it is the same in all of them."
        ),
        advice="If the model was not trained before, check that gradients reach the parameters (a "
        "norm above 0; no detach or no_grad on the way), that the optimizer has the parameters of "
        "this model, and that the learning rate is not far too small. A loop that works can learn "
        "a single batch by heart.",
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
    """Ticks and values: the mean of the ranks, and the largest of several metrics."""
    if not metrics:
        return []
    values = ", ".join(f"avg({identifier(metric)})" for metric in metrics)
    query = f"select tick, greatest({values}) as value from ticks group by tick order by tick"
    rows = reading.table_of(metrics).sql(query).fetchall()
    return [(tick, value) for tick, value in rows if value is not None]


def _longest_zero(rates: Series) -> Series:
    """The longest stretch of rates that are 0; empty if it is not long enough."""
    stretches = groupby(rates, lambda row: row[1] == 0)
    longest = max((list(rows) for is_zero, rows in stretches if is_zero), key=len, default=[])
    return longest if len(longest) >= max(ZERO_TICKS, ZERO_SHARE * len(rates)) else []


def _learns(loss: Series, zero: Series) -> bool:
    """Whether a loss falls while the recorded learning rate is 0."""
    first, last = zero[0][0], zero[-1][0]
    values = [value for tick, value in loss if first <= tick <= last and math.isfinite(value)]
    return mann_kendall(levels(values, min(BINS, len(values)))) < LEARNING_SIGMAS


def _still_warming_up(rates: Series) -> bool:
    """Whether the learning rate still rises at the end: the loss may fall later."""
    values = [value for _, value in rates]
    return bool(values) and values[-1] == max(values) > values[len(values) * 9 // 10 - 1]


def _error_if_flat(series: Series) -> float | None:
    """The standard error of a fifth of a loss that does not move; None if it moves, or may move."""
    ticks, values = [tick for tick, _ in series], [value for _, value in series]
    if len(values) < FLAT_TICKS or not all(map(math.isfinite, values)):
        return None
    if ticks[0] > 2 * median(later - earlier for earlier, later in pairwise(ticks)):
        return None  # the beginning is not on record
    fifths = levels(values, FIFTHS)
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
        or mann_kendall(levels(values, BINS)) <= FALLING_SIGMAS
        or _far_above(above[:fifth], noise)
        or _far_above([-each for each in above[: -fifth - 1 : -1]], noise)
    ):
        return None
    return error


def _far_above(values: Sequence[float], noise: float) -> bool:
    """Whether the sum of the first 1, 2, 4, ... values is above 0 by more than chance."""
    sums = dict(enumerate(accumulate(values), 1))
    counts = (2**power for power in range(len(values).bit_length()))
    return any(sums[count] > END_SIGMAS * noise * math.sqrt(count) for count in counts)
