"""A clock in a notebook: its state, and the newest tick that it has recorded.

A clock keeps no ticks, so there is no history here: `open_run(directory)` shows the whole run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.markup import Html, bar, element, escaped, joined, table
from metronorm.text import counted, percent, short_time, short_value

if TYPE_CHECKING:
    from metronorm.store.schema import TickRecord

MOST_METRICS = 20


def clock_html(directory: str, state: str, latest: TickRecord | None, dropped: int) -> Html:
    """A heading, the metrics of the newest tick, and where its time went.

    Args:
        directory: of the run, as it is shown.
        state: of the clock.
        latest: the newest complete record; None before the first.
        dropped: how many records and samples are lost.
    """
    heading = [element("b", f"Clock {directory}"), escaped(state)]
    if dropped:
        heading.append(escaped(f"{counted(dropped, 'record')} dropped"))
    parts = [joined(heading, " \N{MIDDLE DOT} ")]
    if latest is not None:
        parts += [*_metrics(latest), _times(latest)]
    parts.append(element("small", f"All ticks: open_run({directory!r})"))
    return element("div", *(element("div", part) for part in parts))


def _metrics(record: TickRecord) -> list[Html]:
    names = list(record.metrics)
    rows = [(name, short_value(float(record.metrics[name]))) for name in names[:MOST_METRICS]]
    made = [table((f"tick {record.tick:,}", "value"), rows)] if rows else []
    if len(names) > MOST_METRICS:
        made.append(escaped(f"and {counted(len(names) - MOST_METRICS, 'more metric')}"))
    return made


def _times(record: TickRecord) -> Html:
    wall_ns = record.wall_ns
    shares = {name: ns / wall_ns for name, ns in record.phases.items()} if wall_ns else {}
    rows = [
        (name, short_time(record.phases[name]), percent(share), bar(share))
        for name, share in shares.items()
    ]
    head = (f"time of tick {record.tick:,}", short_time(wall_ns), "", "")
    return table(head, rows)
