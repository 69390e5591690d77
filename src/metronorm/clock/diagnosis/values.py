"""Metrics that are not finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from metronorm.clock.diagnosis.finding import Finding, Severity, counted
from metronorm.clock.store.columns import identifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.clock.diagnosis.reading import Reading

_SEVERITIES: tuple[Severity, ...] = ("notice", "warning", "critical")


def is_loss(metric: str) -> bool:
    """Whether a metric is one that training makes smaller."""
    return metric.endswith("loss")


def not_finite(reading: Reading) -> Iterator[Finding]:
    """The first NaN or infinity of each metric."""
    if not reading.metrics:
        return
    counts = ", ".join(
        f"count(*) filter (not isfinite({identifier(metric)}))" for metric in reading.metrics
    )
    counted_bad = zip(reading.metrics, reading.one(f"select {counts} from ticks"), strict=True)
    for metric in [metric for metric, count in counted_bad if count]:
        name = identifier(metric)
        tick, rank, value, count, ranks, last, healthy = reading.one(
            f"""with bad as (select * from ticks where not isfinite({name}))
                select min(tick), arg_min(rank, (tick, rank)), arg_min({name}, (tick, rank)),
                       count(*), count(distinct rank), max(tick),
                       (select max(tick) from ticks where isfinite({name}))
                from bad"""
        )
        recovered = healthy is not None and healthy > last
        severity = _SEVERITIES[is_loss(metric) + (not recovered)]
        spelled = "NaN" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
        yield Finding(
            rule="not-finite",
            severity=severity,
            what=f"{metric} was first {spelled} at tick {tick:,}{reading.of_rank(rank)}, "
            + (f"{counted(count, 'time')} in all" if count > 1 else "and only then")
            + ("; it was finite again after that." if recovered else "; it is so to the end."),
            advice=_advice(metric, recovered),
            evidence={
                "first_tick": tick,
                "last_tick": last,
                "rank": rank,
                "records": count,
                "ranks": ranks,
            },
            ticks=[tick],
        )


def _advice(metric: str, recovered: bool) -> str:
    if not is_loss(metric):
        return "See how it is computed: a division by zero, a logarithm of zero, an overflow."
    if recovered:
        return "See the batch of that tick; an overflow of half precision is another candidate."
    return (
        "Go back to a checkpoint from before that tick, and lower the learning rate, clip the "
        "gradient, or compute in bf16 instead of fp16; see the batch of that tick."
    )
