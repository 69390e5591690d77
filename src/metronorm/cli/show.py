"""`metronorm show`: what runs did and cost, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from metronorm.cli.arguments import RunPaths, parse
from metronorm.cli.console import Console, cell, print_notices
from metronorm.cli.runs import read_runs
from metronorm.cli.show_lines import differing, directory, lines
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.runs.summary import Summary, summarize
from metronorm.text import hours_minutes, percent, printable, short_number, short_time, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

CHART_WIDTH, CHART_HEIGHT = 100, 13
# up to this number of runs, each has a column and a line in the charts; more runs have a row each
SIDE_BY_SIDE = 3
# the largest number of losses in the table
MOST_LOSSES = 20

DESCRIPTION = """
    metronorm show runs/shakespeare
    metronorm show runs/a runs/b --no-charts
    metronorm show runs/*

Up to three runs get a column each, more runs a line each. A run may still be training."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm show`."""

    runs: RunPaths
    """Directories of the runs."""
    charts: bool = True
    """Draw the losses and the tick times, in ms, of up to three runs."""


def main(argv: list[str]) -> int:
    """Print the table and the charts; 2 if a run could not be read."""
    arguments = parse(
        Arguments,
        argv,
        command="show",
        description=DESCRIPTION,
    )
    if not arguments.runs:
        raise ConfigError("show needs a run", fix="metronorm show runs/*")
    console = Console()
    runs = read_runs(arguments.runs, lambda path: summarize(open_run(path)))
    summaries = list(runs.found.values())
    if len(summaries) > SIDE_BY_SIDE:
        console.print(lines(summaries, console.width))
    else:
        console.print(table(summaries))
        if arguments.charts:
            console.print(*charts(summaries, console.width), sep="\n")
    for summary in summaries:
        for notice in summary.notices:
            console.print(Text(printable(notice), "yellow"))
    print_notices(runs.left_out)
    return 2 if runs.failed else 0


def table(summaries: Sequence[Summary]) -> Table:
    """A table with one column per run."""
    made = Table(show_edge=False, pad_edge=False, header_style="bold")
    made.add_column("")
    for summary in summaries:
        made.add_column(_text(summary.name), justify="right", overflow="fold")

    def row(name: str, form: Callable[[Summary], str]) -> None:
        cells = [form(summary) for summary in summaries]
        if any(cells):
            made.add_row(_text(name), *(_text(value or "-") for value in cells))

    row("directory", directory)
    row("state", lambda s: s.state)
    row("host", lambda s: s.host)
    row("machine", lambda s: s.machine)
    row("ticks", _ticks)
    row("ranks", lambda s: str(s.ranks) if s.ranks > 1 else "")
    row("time in ticks", lambda s: hours_minutes(s.seconds))
    row("branches", lambda s: "\n".join(s.branches))
    row("goodput", lambda s: cell(s.goodput, percent))
    made.add_section()
    losses = _union(summary.losses for summary in summaries)
    for name in losses[:MOST_LOSSES]:
        row(name, partial(_loss, name=name))
    if len(losses) > MOST_LOSSES:
        row("other losses", lambda s: f"{len({*s.losses}.difference(losses[:MOST_LOSSES])):,}")
    made.add_section()
    row("tick, median", lambda s: cell(s.tick_median_ns, short_time))
    row("tick, p95", lambda s: cell(s.tick_p95_ns, short_time))
    for name in _union(summary.phases for summary in summaries):
        row(f"  {name}", partial(_share, name=name))
    row("recording", _recording)
    made.add_section()
    row("tokens", lambda s: f"{s.tokens:,.0f}" if s.tokens else "")
    row("tokens/s", lambda s: f"{s.tokens_per_second:,.0f}" if s.tokens_per_second else "")
    row("samples", lambda s: f"{s.samples:,}" if s.samples else "")
    row("peak memory", lambda s: cell(s.peak_memory_bytes, size))
    if len(summaries) > 1:
        made.add_section()
        for name, values in differing(summaries).items():
            made.add_row(_text(name), *map(_text, values))
    return made


def charts(summaries: Sequence[Summary], width: int) -> list[Text]:
    """Draw the losses of all runs in one chart, and their tick times in another."""
    from metronorm.cli.charts import chart  # plotext takes a quarter of a second

    several = len(summaries) > 1
    losses = {
        f"{summary.name} {name}" if several else name: curve.points()
        for summary in summaries
        for name, curve in summary.curves.items()
        if name.endswith("loss")
    }
    times = {summary.name: summary.tick_ns.points(1e-6) for summary in summaries}
    drawn = []
    for title, curves in (("loss", losses), ("tick time, ms", times)):
        shown = {label: points for label, points in curves.items() if points}
        if shown:
            drawn.append(chart(title, shown, min(width, CHART_WIDTH), CHART_HEIGHT))
    return drawn


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def _ticks(summary: Summary) -> str:
    attempts = f" in {summary.attempts} attempts" if summary.attempts > 1 else ""
    return f"{summary.ticks:,}{attempts}"


def _loss(summary: Summary, name: str) -> str:
    loss = summary.losses.get(name)
    if loss is None:
        return ""
    best = "" if loss.best is None else f" (best {short_number(loss.best)} at {loss.tick:,})"
    return f"{short_number(loss.last)}{best}"


def _share(summary: Summary, name: str) -> str:
    return cell(summary.phases.get(name), percent)


def _recording(summary: Summary) -> str:
    """The time that recording takes per tick, and its share, which is large if ticks are short."""
    if summary.clock_share is None:
        return ""
    each = summary.clock_share * summary.seconds * 1e9 / summary.ticks
    return f"{short_time(each)} a tick, {percent(summary.clock_share)}"


def _text(value: str) -> Text:
    return Text(printable(value))
