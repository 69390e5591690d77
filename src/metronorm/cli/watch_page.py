"""The parts of the page of `metronorm watch`: a snapshot of a run as text."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from metronorm.cli.charts import chart
from metronorm.cli.console import cell
from metronorm.runs.event_words import in_words
from metronorm.text import hours_minutes, percent, printable, short_time, size, three_digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from metronorm.runs.curves import Curve
    from metronorm.runs.events import Event
    from metronorm.runs.following.snapshot import Snapshot

BAR_WIDTH = 20
CHART_WIDTH, CHART_HEIGHT = 100, 13
EVENTS = 10
TEXT_LIMIT = 400  # characters of an event
COLORS = {
    "running": "green",
    "running or killed": "yellow",
    "killed": "red",
    "failed": "red",
    "stopped": "yellow",
}
ALARMS = ("stall", "dropped", "samples dropped", "not finite", "checkpoint failed", "signal")


def metrics(snapshots: Sequence[Snapshot]) -> list[str]:
    """The names of all metrics of the runs, losses first."""
    names = dict.fromkeys(name for snapshot in snapshots for name in snapshot.curves)
    return sorted(names, key=lambda name: (name != "loss", not name.endswith("loss")))


def whole(snapshots: Sequence[Snapshot], width: int) -> Group:
    """All parts, one below the other, for output that is not a live page."""
    names = metrics(snapshots)
    size = min(width, CHART_WIDTH), CHART_HEIGHT
    parts: list[RenderableType] = [overview(snapshots, [""] * len(snapshots))]
    parts += [metric_chart(snapshots, name, *size) for name in names[:1]]
    if any(snapshot.tick for snapshot in snapshots):
        parts.append(tick_chart(snapshots, *size))
    for label, snapshot in zip(labels(snapshots), snapshots, strict=True):
        parts += [Text(f"\n{label}", "bold")] * (len(snapshots) > 1)
        parts += [phases(snapshot)] * bool(snapshot.phases)
        parts += [machine(snapshot)] * bool(snapshot.resources)
        parts += [ranks(snapshot)] * (len(snapshot.ranks) > 1)
        parts.append(events(snapshot, EVENTS))
    return Group(*parts)


def labels(snapshots: Sequence[Snapshot]) -> list[str]:
    """The labels of the runs: their names, or their directories if two have the same name."""
    names = [snapshot.name for snapshot in snapshots]
    if len(set(names)) < len(names):
        names = [snapshot.directory for snapshot in snapshots]
    return [printable(name) for name in names]


def overview(
    snapshots: Sequence[Snapshot], problems: Sequence[str], chosen: int = 0, *, paused: bool = False
) -> Table:
    """A table with one row per run; `problems` has the reason why a run cannot be read, or ""."""
    made = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    run = "run (paused)" if paused else "run"
    units = {snapshot.unit for snapshot in snapshots if snapshot.unit}
    several = len(units) > 1
    rate = "counted/s" if several else f"{min(units, default='tokens')}/s"
    for name in (run, "state", "tick", "left", "ticks/s", rate, "last tick"):
        made.add_column(name, justify="left" if name in (run, "state") else "right")
    rows = zip(labels(snapshots), snapshots, problems, strict=True)
    for at, (label, snapshot, problem) in enumerate(rows):
        mark = "▸ " if len(snapshots) > 1 and at == chosen else ""
        total = f" / {snapshot.total:,}" if snapshot.total else ""
        unit = f" {snapshot.unit}" if several and snapshot.unit else ""
        made.add_row(
            Text(mark + label, "bold"),
            _state(snapshot, problem),
            f"{snapshot.tick:,}{total}",
            cell(snapshot.seconds_left, hours_minutes),
            cell(snapshot.ticks_per_second, three_digits),
            cell(snapshot.per_second, three_digits) + unit,
            _ago(snapshot),
        )
    return made


def _state(snapshot: Snapshot, problem: str) -> Text:
    if problem:
        return Text(printable(problem), "red")
    color = COLORS.get(snapshot.state) or COLORS.get(re.split(r"\W", snapshot.state)[0], "")
    state = Text(printable(snapshot.state), color)
    if snapshot.attempts > 1:
        state.append(f", attempt {snapshot.attempts}", "not bold default")
    if len(snapshot.ranks) > 1:
        state.append(f", {len(snapshot.ranks)} ranks", "not bold default")
    return state


def _ago(snapshot: Snapshot) -> str:
    if snapshot.tick_time_ns is None:
        return ""
    return f"{hours_minutes(max(snapshot.time_ns - snapshot.tick_time_ns, 0) / 1e9)} ago"


def metric_chart(snapshots: Sequence[Snapshot], name: str, width: int, height: int) -> Text:
    """A chart of one metric of all runs."""
    curves = [snapshot.curves.get(name) for snapshot in snapshots]
    left_out = sum(sum(curve.not_finite) for curve in curves if curve)
    values = [snapshot.latest[name] for snapshot in snapshots if name in snapshot.latest]
    title = f"{name} {values[0]:.5g}" if len(values) == 1 else name
    if left_out:
        title += f" ({left_out:,} not finite)"
    return _chart(snapshots, curves, 1.0, title, width, height)


def tick_chart(snapshots: Sequence[Snapshot], width: int, height: int) -> Text:
    """A chart of the tick time of all runs."""
    curves = [snapshot.tick_ns for snapshot in snapshots]
    medians = [snapshot.median_tick_ns for snapshot in snapshots]
    now = f", {short_time(medians[0])} now" if len(medians) == 1 and medians[0] else ""
    return _chart(snapshots, curves, 1e-6, f"tick time in ms{now}", width, height)


def _chart(
    snapshots: Sequence[Snapshot],
    curves: Sequence[Curve | None],
    scale: float,
    title: str,
    width: int,
    height: int,
) -> Text:
    drawn = {
        label: points
        for label, curve in zip(labels(snapshots), curves, strict=True)
        if curve and (points := curve.points(scale))
    }
    if not drawn:
        return Text(f"{printable(title)}\n\nnothing to draw yet", "dim", justify="center")
    return chart(title, drawn, width, height)


def phases(snapshot: Snapshot, *, bars: bool = True) -> Table:
    """A table of the shares of the phases, as numbers and, with `bars`, as bars."""
    made = _pairs("phase", "share", *([""] if bars else []))
    for name, share in snapshot.phases.items():
        bar = [Text("█" * round(share * BAR_WIDTH))] if bars else []
        made.add_row(Text(printable(name)), percent(share), *bar)
    return made


def machine(snapshot: Snapshot) -> Table:
    """A table of what the processes and the machine use."""
    now, rates = snapshot.resources, snapshot.rates

    def bytes_of(name: str) -> str:
        return cell(now.get(name) or None, size)

    def number(values: dict[str, float], name: str, form: str, unit: str, scale: float = 1) -> str:
        return f"{values[name] * scale:{form}}{unit}" if name in values else ""

    rows = {
        "memory": bytes_of("memory_bytes"),
        "peak memory": bytes_of("peak_memory_bytes"),
        "workers' memory": bytes_of("children_memory_bytes"),
        "swap": bytes_of("swap_bytes"),
        "free memory": bytes_of("machine_memory_available_bytes"),
        "CPU": number(rates, "processor_ns", ".1f", " cores", 1e-9),
        "workers' CPU": number(rates, "children_processor_ns", ".1f", " cores", 1e-9),
        "CPU power": number(rates, "processor_energy_joules", ".0f", " W"),
        "machine busy": number(now, "machine_processor_share", ".0%", ""),
    }
    for name in ("disk_read", "disk_written", "network_received", "network_sent"):
        rows[name.replace("_", " ")] = number(rates, f"{name}_bytes", ",.1f", " MiB/s", 2**-20)
    for gpu in dict.fromkeys(name.partition("_")[0] for name in now if name.startswith("gpu")):
        parts = (
            number(now, f"{gpu}_utilization", ".0%", ""),
            bytes_of(f"{gpu}_memory_bytes"),
            number(now, f"{gpu}_power_watts", ".0f", " W"),
            number(now, f"{gpu}_temperature_celsius", ".0f", " °C"),
        )
        rows[gpu] = ", ".join(part for part in parts if part)
    made = _pairs("resource", "now")
    for name, text in rows.items():
        if text:
            made.add_row(Text(printable(name)), text)
    return made


def ranks(snapshot: Snapshot) -> Table:
    """A table with one row per rank of the newest attempt."""
    rate = f"{snapshot.unit or 'tokens'}/s"
    made = _pairs("rank", "tick", "tick time", "arrives after", rate, "memory", "last tick")
    for rank in snapshot.ranks:
        behind = hours_minutes(max(snapshot.time_ns - rank.time_ns, 0) / 1e9)
        made.add_row(
            str(rank.rank),
            f"{rank.tick:,}",
            short_time(rank.tick_ns),
            cell(rank.arrival_ns, short_time),
            cell(rank.per_second, three_digits),
            cell(rank.memory_bytes, size),
            f"{behind} ago",
        )
    return made


def events(snapshot: Snapshot, limit: int) -> Text:
    """At most `limit` events, the newest first."""
    several = len(snapshot.ranks) > 1
    return Text("\n").join(_event(event, several) for event in snapshot.events[:limit])


def _event(event: Event, several: bool) -> Text:
    moment = time.strftime("%H:%M:%S", time.localtime(event.time_ns / 1e9))
    line = Text(f"{moment} tick {event.tick:,}" + f" rank {event.rank}" * several, "dim")
    is_alarm = event.name in ALARMS or "error" in event.fields
    words = printable(in_words(event))
    if len(words) > TEXT_LIMIT:
        words = f"{words[:TEXT_LIMIT]} ..."
    return line.append(f" {words}", "not dim red" if is_alarm else "not dim")


def _pairs(*names: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim")
    for at, name in enumerate(names):
        made.add_column(name, justify="right" if at else "left")
    return made
