"""A snapshot of a run in characters: the parts of `metronorm watch`."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from metronorm.cli.charts import chart
from metronorm.cli.words import duration, mebibytes
from metronorm.cli.words import time as time_of
from metronorm.text import printable, short_time, three_digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from metronorm.runs.curves import Curve
    from metronorm.runs.following.snapshot import Event, Snapshot

BAR_WIDTH = 20
CHART_WIDTH, CHART_HEIGHT = 100, 13
EVENTS = 10
TEXT_LIMIT = 400  # characters of one field of an event
COLORS = {
    "running": "green",
    "running or killed": "yellow",
    "killed": "red",
    "failed": "red",
    "stopped": "yellow",
}
ALARMS = ("stall", "dropped", "not finite", "checkpoint failed", "signal")


def metrics(snapshots: Sequence[Snapshot]) -> list[str]:
    """Names of the metrics there are in any of the runs, losses first."""
    names = dict.fromkeys(name for snapshot in snapshots for name in snapshot.curves)
    return sorted(names, key=lambda name: (name != "loss", not name.endswith("loss")))


def whole(snapshots: Sequence[Snapshot], width: int) -> Group:
    """All parts, below each other, for where there is no live page."""
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
    """What to call the runs: by name, or where two have one name by directory."""
    names = [snapshot.name for snapshot in snapshots]
    if len(set(names)) < len(names):
        names = [snapshot.directory for snapshot in snapshots]
    return [printable(name) for name in names]


def overview(
    snapshots: Sequence[Snapshot], problems: Sequence[str], chosen: int = 0, *, paused: bool = False
) -> Table:
    """One row per run; `problems` says why a run cannot be read any more."""
    made = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    run = "run (paused)" if paused else "run"
    for name in (run, "state", "tick", "left", "ticks/s", "tokens/s", "last tick"):
        made.add_column(name, justify="left" if name in (run, "state") else "right")
    rows = zip(labels(snapshots), snapshots, problems, strict=True)
    for at, (label, snapshot, problem) in enumerate(rows):
        mark = "▸ " if len(snapshots) > 1 and at == chosen else ""
        total = f" / {snapshot.total:,}" if snapshot.total else ""
        made.add_row(
            Text(mark + label, "bold"),
            _state(snapshot, problem),
            f"{snapshot.tick:,}{total}",
            "" if snapshot.seconds_left is None else duration(snapshot.seconds_left),
            _rate(snapshot.ticks_per_second),
            _rate(snapshot.tokens_per_second),
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
    return f"{duration(max(snapshot.time_ns - snapshot.tick_time_ns, 0) / 1e9)} ago"


def _rate(value: float | None) -> str:
    return "" if value is None else three_digits(value)


def metric_chart(snapshots: Sequence[Snapshot], name: str, width: int, height: int) -> Text:
    """The course of one metric in all runs."""
    curves = [snapshot.curves.get(name) for snapshot in snapshots]
    left_out = sum(sum(curve.not_finite) for curve in curves if curve)
    values = [snapshot.latest[name] for snapshot in snapshots if name in snapshot.latest]
    title = f"{name} {values[0]:.5g}" if len(values) == 1 else name
    if left_out:
        title += f" ({left_out:,} not finite)"
    return _chart(snapshots, curves, 1.0, title, width, height)


def tick_chart(snapshots: Sequence[Snapshot], width: int, height: int) -> Text:
    """The course of the tick time in all runs."""
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
    """Shares of the phases, also as bars."""
    made = _pairs("phase", "share", *([""] if bars else []))
    for name, share in snapshot.phases.items():
        bar = [Text("█" * round(share * BAR_WIDTH))] if bars else []
        made.add_row(Text(printable(name)), f"{share:.1%}", *bar)
    return made


def machine(snapshot: Snapshot) -> Table:
    """What the processes and the machine use."""
    now, rates = snapshot.resources, snapshot.rates

    def size(name: str) -> str:
        return mebibytes(now.get(name) or None)

    def number(values: dict[str, float], name: str, form: str, unit: str, scale: float = 1) -> str:
        return f"{values[name] * scale:{form}}{unit}" if name in values else ""

    rows = {
        "memory": size("memory_bytes"),
        "peak memory": size("peak_memory_bytes"),
        "workers' memory": size("children_memory_bytes"),
        "swap": size("swap_bytes"),
        "free memory": size("machine_memory_available_bytes"),
        "processor": number(rates, "processor_ns", ".1f", " cores", 1e-9),
        "workers' processor": number(rates, "children_processor_ns", ".1f", " cores", 1e-9),
        "processor power": number(rates, "processor_energy_joules", ".0f", " W"),
        "machine busy": number(now, "machine_processor_share", ".0%", ""),
    }
    for name in ("disk_read", "disk_written", "network_received", "network_sent"):
        rows[name.replace("_", " ")] = number(rates, f"{name}_bytes", ",.1f", " MiB/s", 2**-20)
    for gpu in dict.fromkeys(name.partition("_")[0] for name in now if name.startswith("gpu")):
        parts = (
            number(now, f"{gpu}_utilization", ".0%", ""),
            size(f"{gpu}_memory_bytes"),
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
    """One row per rank of the newest attempt."""
    made = _pairs("rank", "tick", "tick time", "arrives after", "tokens/s", "memory", "last tick")
    for rank in snapshot.ranks:
        behind = duration(max(snapshot.time_ns - rank.time_ns, 0) / 1e9)
        made.add_row(
            str(rank.rank),
            f"{rank.tick:,}",
            time_of(rank.tick_ns),
            time_of(rank.arrival_ns),
            _rate(rank.tokens_per_second),
            mebibytes(rank.memory_bytes),
            f"{behind} ago",
        )
    return made


def events(snapshot: Snapshot, limit: int) -> Text:
    """The newest events, the newest first."""
    several = len(snapshot.ranks) > 1
    return Text("\n").join(_event(event, several) for event in snapshot.events[:limit])


def _event(event: Event, several: bool) -> Text:
    moment = time.strftime("%H:%M:%S", time.localtime(event.time_ns / 1e9))
    line = Text(f"{moment} tick {event.tick:,}" + f" rank {event.rank}" * several, "dim")
    color = "red" if event.name in ALARMS or "error" in event.fields else "bold"
    line.append(f" {printable(event.name)}", f"not dim {color}")
    for name, value in event.fields.items():
        text = printable(str(value), multiline=True).strip()
        text = text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]} ..."
        line.append(f" {printable(name)} " if name != "text" else "\n", "dim")
        line.append(text, "not dim")
    return line


def _pairs(*names: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim")
    for at, name in enumerate(names):
        made.add_column(name, justify="right" if at else "left")
    return made
