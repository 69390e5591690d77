"""A run in a notebook: how it stands, its metrics as small charts, and where its time went."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metronorm.files import shown_path
from metronorm.markup import WIDTH, Html, bar, element, escaped, joined, sparkline, table
from metronorm.runs.curves import Curve, read_curve
from metronorm.runs.directions import is_evaluated, is_loss
from metronorm.runs.summary import Summary, summarize
from metronorm.runs.summing import of_first_rank
from metronorm.store.run_directory import read_run_info
from metronorm.store.sql_columns import identifier
from metronorm.text import (
    counted,
    hours_minutes,
    of_planned,
    percent,
    short_time,
    short_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

MOST_METRICS = 12  # losses first, then those of evaluations
MOST_NOTICES = 5
_HEAD = ("", "last", "lowest", "highest", "NaN, ∞", "by ticks")


class _Values(NamedTuple):
    """The values of a metric in the first rank that has any."""

    rank: int
    last: float
    not_finite: int


def run_html(run: Run) -> Html:
    """A heading, a table of metrics and of the tick time, one of phases, and what is to be noticed.

    Raises:
        RunError: the run is gone, or a file of it may not be read.
        OutOfMemoryError: reading the run takes more memory than there is.
    """
    read_run_info(run.directory)  # a run that is gone would be shown as one without ticks
    summary, ticks = summarize(run), run.ticks()
    names = sorted(ticks.metrics, key=_order)
    values = _values(ticks, names[:MOST_METRICS])
    rows = [_metric(ticks, name, found) for name, found in values.items()]
    if summary.tick_median_ns is not None:
        rows.append(_tick_time(summary))
    parts = [_heading(run, summary)]
    parts += [table(_HEAD, rows)] if rows else []
    if len(names) > MOST_METRICS:
        parts.append(escaped(f"{MOST_METRICS} of {len(names):,} metrics; all: run.ticks().metrics"))
    parts += [_phases(summary)] if summary.phases else []
    parts += [element("small", notice) for notice in summary.notices[:MOST_NOTICES]]
    if len(summary.notices) > MOST_NOTICES:
        parts.append(
            element("small", f"{len(summary.notices) - MOST_NOTICES:,} more: run.notices()")
        )
    return element("div", *(element("div", part) for part in parts))


def _order(name: str) -> int:
    return 1 if is_evaluated(name) else 0 if is_loss(name) else 2


def _heading(run: Run, summary: Summary) -> Html:
    facts = [
        summary.state,
        f"{of_planned(summary.ticks, summary.planned)} {'tick' if summary.ticks == 1 else 'ticks'}",
        hours_minutes(summary.seconds),
        *(
            counted(n, name)
            for n, name in ((summary.attempts, "attempt"), (summary.ranks, "rank"))
            if n > 1
        ),
        *(f"{rate:,.0f} {unit}/s" for unit, rate in [*summary.per_second.items()][:1]),
        shown_path(run.directory),
    ]
    return joined([element("b", summary.name), *facts], " \N{MIDDLE DOT} ")


def _values(ticks: Table, names: Sequence[str]) -> dict[str, _Values]:
    """The metrics that have values, in the order of the names."""
    not_finite = "count(*) filter (not isfinite({}::DOUBLE))"
    wanted = {name: not_finite.format(identifier(name)) for name in names}
    return {name: _Values(*found) for name, found in of_first_rank(ticks, wanted).items()}


def _metric(ticks: Table, name: str, values: _Values) -> list[str]:
    curve = read_curve(ticks, name, stretches=WIDTH, rank=values.rank)
    last, bad = short_value(values.last), f"{values.not_finite:,}" if values.not_finite else ""
    return [name, last, *_range(curve, short_value), bad, _chart(curve)]


def _tick_time(summary: Summary) -> list[str]:
    median = short_time(summary.tick_median_ns or 0.0)
    return [
        "tick time, median",
        median,
        *_range(summary.tick_ns, short_time),
        "",
        _chart(summary.tick_ns),
    ]


def _range(curve: Curve, form: Callable[[float], str]) -> list[str]:
    low = [value for value in curve.low if value is not None]
    high = [value for value in curve.high if value is not None]
    return [form(min(low)), form(max(high))] if low else ["", ""]


def _chart(curve: Curve) -> Html:
    return sparkline(curve.ticks, curve.low, curve.high, curve.mean, curve.not_finite)


def _phases(summary: Summary) -> Html:
    rows = [(name, percent(share), bar(share)) for name, share in summary.phases.items()]
    return table(("time by phase", "share", ""), rows)
