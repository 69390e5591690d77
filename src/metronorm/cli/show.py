"""`metronorm show`: what runs did and cost, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from metronorm.cli.arguments import parse
from metronorm.cli.console import Console
from metronorm.cli.words import duration, mebibytes, milliseconds
from metronorm.clock import open_run
from metronorm.clock.summary import Summary, summarize
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.text import Text


CHART_WIDTH, CHART_HEIGHT = 100, 13


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm show`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Directories of the runs."""
    charts: bool = True
    """Draw loss and tick time."""


def main(argv: list[str]) -> int:
    """Print the table and the charts."""
    arguments = parse(
        Arguments,
        argv,
        command="show",
        description="What runs did and cost, side by side; also while they run.",
    )
    if not arguments.runs:
        raise ConfigError("show needs a run", fix="metronorm show runs/*")
    console = Console()
    summaries = [summarize(open_run(path)) for path in arguments.runs]
    console.print(table(summaries))
    if arguments.charts:
        console.print(*charts(summaries, console.width), sep="\n")
    for summary in summaries:
        for notice in summary.notices:
            console.print(f"[yellow]{notice}[/yellow]")
    return 0


def table(summaries: list[Summary]) -> Table:
    """One column per run."""
    made = Table(show_edge=False, pad_edge=False, header_style="bold")
    made.add_column("")
    for summary in summaries:
        made.add_column(summary.name, justify="right")

    def row(name: str, cell: Callable[[Summary], str]) -> None:
        cells = [cell(summary) for summary in summaries]
        if any(cells):
            made.add_row(name, *(value or "-" for value in cells))

    row("directory", lambda s: s.directory)
    row("state", lambda s: s.state)
    row("host", lambda s: s.host)
    row("machine", lambda s: s.machine)
    row("ticks", lambda s: f"{s.ticks:,}" + (f" in {s.attempts} attempts" * (s.attempts > 1)))
    row("ranks", lambda s: str(s.ranks) if s.ranks > 1 else "")
    row("time in ticks", lambda s: duration(s.seconds))
    row("goodput", lambda s: "" if s.goodput is None else f"{s.goodput:.1%}")
    made.add_section()
    for name in _union(summary.losses for summary in summaries):
        row(name, partial(_loss, name=name))
    made.add_section()
    row("tick, median", lambda s: milliseconds(s.tick_median_ns))
    row("tick, p95", lambda s: milliseconds(s.tick_p95_ns))
    for name in _union(summary.phases for summary in summaries):
        row(f"  {name}", partial(_share, name=name))
    row("recording", lambda s: "" if s.clock_share is None else f"{s.clock_share:.3%}")
    made.add_section()
    row("tokens", lambda s: f"{s.tokens:,.0f}" if s.tokens else "")
    row("tokens/s", lambda s: f"{s.tokens_per_second:,.0f}" if s.tokens_per_second else "")
    row("peak memory", lambda s: mebibytes(s.peak_memory_bytes))
    if len(summaries) > 1:
        made.add_section()
        configs = [_flat(summary.config) for summary in summaries]
        for name in _union(configs):
            values = [_plain(config.get(name)) for config in configs]
            if len(set(values)) > 1:
                made.add_row(name, *values)
    return made


def charts(summaries: list[Summary], width: int) -> list[Text]:
    """Losses over the ticks, all runs in one chart; then the tick times."""
    from metronorm.cli.charts import chart  # plotext takes a quarter of a second

    names = _union(summary.curves for summary in summaries)
    losses = [name for name in names if name.endswith("loss")]
    drawn = []
    for title, wanted in (("loss", losses), ("tick time, ms", ["tick time, ms"])):
        curves = {
            name if len(summaries) == 1 else f"{summary.name} {name}": summary.curves[name]
            for summary in summaries
            for name in wanted
            if name in summary.curves
        }
        if curves:
            drawn.append(chart(title, curves, min(width, CHART_WIDTH), CHART_HEIGHT))
    return drawn


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def _loss(summary: Summary, name: str) -> str:
    loss = summary.losses.get(name)
    if loss is None:
        return ""
    best = "" if loss.best is None else f" (best {loss.best:.4f} at {loss.tick:,})"
    return f"{loss.last:.4f}{best}"


def _share(summary: Summary, name: str) -> str:
    share = summary.phases.get(name)
    return "" if share is None else f"{share:.1%}"


def _flat(config: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _plain(value: object) -> str:
    return "-" if value is None else str(value)
