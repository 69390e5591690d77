"""Rule about metrics that are not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.runs.diagnosing.finding import Finding, Severity
from metronorm.runs.directions import is_loss
from metronorm.store.parquet_parts import batches
from metronorm.store.sql_columns import identifier
from metronorm.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.runs.diagnosing.reading import Reading

# Of the metrics that are not losses, this number have their own finding: those that broke first.
METRICS_NAMED = 10
_SEVERITIES: tuple[Severity, ...] = ("notice", "warning", "critical")


def not_finite(reading: Reading) -> Iterator[Finding]:
    """Find the first NaN or infinity of each metric."""
    found = [row for batch in batches(reading.metrics) for row in _not_finite(reading, batch)]
    # if a model breaks, the metrics of all its layers break with it
    others = sorted((row for row in found if not is_loss(row.metric)), key=lambda row: row.tick)
    named = {row.metric for row in others[:METRICS_NAMED]}
    for row in found:
        if is_loss(row.metric) or row.metric in named:
            yield _finding(reading, row)
    if len(others) > METRICS_NAMED:
        yield _summary_finding(reading, others[METRICS_NAMED:])


@dataclass(frozen=True)
class _Bad:
    """A metric that was not finite; `healthy` is the last tick at which it was finite."""

    metric: str
    tick: int
    rank: int
    value: float
    records: int
    ranks: int
    last: int
    healthy: int | None

    @property
    def recovered(self) -> bool:
        return self.healthy is not None and self.healthy > self.last

    @property
    def in_words(self) -> str:
        if math.isnan(self.value):
            return "NaN"
        return "infinite" if self.value > 0 else "minus infinite"


def _not_finite(reading: Reading, metrics: Sequence[str]) -> list[_Bad]:
    # A sum is finite only if every value is; metrics with finite values but a sum
    # that overflowed are left out below. A filter for each of many columns would take gigabytes.
    sums = ", ".join(f"sum({identifier(metric)})" for metric in metrics)
    row = reading.table_of(metrics).fetch(f"select {sums} from ticks")[0]
    suspects = [
        metric
        for metric, total in zip(metrics, row, strict=True)
        if total is not None and not math.isfinite(total)
    ]
    if not suspects:
        return []
    columns = ", ".join(map(identifier, suspects))
    rows = reading.table_of(suspects).fetch(
        f"""select metric, min(tick) filter (bad), arg_min(rank, (tick, rank)) filter (bad),
                   arg_min(value, (tick, rank)) filter (bad), count(*) filter (bad),
                   count(distinct rank) filter (bad), max(tick) filter (bad),
                   max(tick) filter (not bad)
            from (select *, not isfinite(value) as bad from
                  (unpivot ticks on {columns} into name metric value value))
            group by metric having count(*) filter (bad) > 0"""
    )
    order = {metric: at for at, metric in enumerate(suspects)}
    return sorted((_Bad(*row) for row in rows), key=lambda bad: order[bad.metric])


def _finding(reading: Reading, bad: _Bad) -> Finding:
    return Finding(
        rule="not-finite",
        severity=_SEVERITIES[is_loss(bad.metric) + (not bad.recovered)],
        what=f"{bad.metric} was first {bad.in_words} at tick {bad.tick:,}"
        f"{reading.of_rank(bad.rank)}, "
        + (f"{counted(bad.records, 'time')} in total" if bad.records > 1 else "and only then")
        + ("; later it was finite again." if bad.recovered else "; it was never finite again."),
        advice=_advice(bad.metric, bad.recovered),
        evidence={
            "first_tick": bad.tick,
            "last_tick": bad.last,
            "rank": bad.rank,
            "records": bad.records,
            "ranks": bad.ranks,
        },
        ticks=[bad.tick],
    )


def _summary_finding(reading: Reading, others: Sequence[_Bad]) -> Finding:
    first, lasting = others[0], sum(not bad.recovered for bad in others)
    verb = "was" if len(others) == 1 else "were"
    return Finding(
        rule="not-finite",
        severity=_SEVERITIES[lasting > 0],
        what=f"{counted(len(others), 'more metric')} {verb} not finite, {lasting:,} of them until "
        f"the end. {first.metric} was the first of them: {first.in_words} at tick {first.tick:,}"
        f"{reading.of_rank(first.rank)}.",
        advice="See the findings about the metrics that broke earlier.",
        evidence={
            "first_tick": first.tick,
            "last_tick": max(bad.last for bad in others),
            "rank": first.rank,
            "records": sum(bad.records for bad in others),
            "metrics": len(others),
        },
        ticks=[first.tick],
    )


def _advice(metric: str, recovered: bool) -> str:
    if not is_loss(metric):
        return "See how it is computed: a division by 0, a logarithm of 0, or an overflow?"
    if recovered:
        return "See the batch of that tick. The cause may also be an overflow of half precision."
    return (
        "See the batch of that tick. Start a new run with a lower learning rate, a clipped "
        "gradient or bf16 instead of fp16. If your loop allows such a change on resume, continue "
        "from a checkpoint before that tick."
    )
