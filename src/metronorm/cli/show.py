"""`metronorm show`: what runs did and cost, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table
from rich.text import Text

from metronorm.cli.arguments import RunPaths, parse
from metronorm.cli.console import Console, cell, print_notices
from metronorm.cli.reading import Runs, read_runs
from metronorm.cli.show_chosen import as_json, in_order, newest
from metronorm.cli.show_lines import differing, directory, lines
from metronorm.errors import ConfigError
from metronorm.runs import open_run
from metronorm.runs.summaries import summaries as summaries_of
from metronorm.runs.summary import Summary, summarize
from metronorm.text import (
    hours_minutes,
    of_planned,
    percent,
    printable,
    short_number,
    short_time,
    size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

CHART_WIDTH, CHART_HEIGHT = 100, 13
# up to this number of runs, each has a column and a line in the charts; more runs have a row each
SIDE_BY_SIDE = 3
# the largest number of losses and other measures in the table
MOST_MEASURES = 20

DESCRIPTION = """
    metronorm show runs/shakespeare
    metronorm show runs/a runs/b --no-charts
    metronorm show runs/* --last 10 --sort=validation_loss
    metronorm show runs/* --json | jq '.[] | [.name, .ticks]'

Up to three runs get a column each, more runs a line each. A run may still be training."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm show`."""

    runs: RunPaths
    """Directories of the runs."""
    charts: bool = True
    """Draw the losses and the tick times, in ms, of up to three runs."""
    last: int | None = None
    """Only so many runs, those that were created last. None: all."""
    sort: str | None = None
    """created, name, seconds, ticks, or a metric: the run with its best value comes first. With -,
    as in --sort=-ticks, the other way round. None: in the order given."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a list with all that is known of each run, but for its curves, as JSON."""


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
    paths = arguments.runs if arguments.last is None else newest(arguments.runs, arguments.last)
    runs = _read(paths, charts=arguments.charts and not arguments.json)
    summaries = list(runs.found.values())
    if arguments.sort is not None:
        summaries = in_order(summaries, arguments.sort)
    if arguments.json:
        print(as_json(summaries))
        print_notices(runs.left_out)
        return 2 if runs.failed else 0
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


def _read(paths: Sequence[Path], *, charts: bool) -> Runs[Summary]:
    """The summaries of all runs that can be read; with curves, if there is room for charts."""
    curves = charts and len(set(paths)) <= SIDE_BY_SIDE
    known = {} if curves else summaries_of(paths)
    runs = read_runs(
        paths, lambda path: known.get(path) or summarize(open_run(path), curves=curves)
    )
    if charts and not curves and len(runs.found) <= SIDE_BY_SIDE:  # the others cannot be read
        again = _read([*runs.found], charts=True)
        left_out = [*runs.left_out, *again.left_out]
        return Runs(again.found, left_out, runs.failed or again.failed)
    return runs


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
    row("straggler", _straggler)
    row("time in ticks", lambda s: hours_minutes(s.seconds))
    row("branches", lambda s: "\n".join(s.branches))
    row("goodput", lambda s: cell(s.goodput, percent))
    made.add_section()
    measures = _union(summary.measures for summary in summaries)
    for name in measures[:MOST_MEASURES]:
        row(name, partial(_measure, name=name))
    if len(measures) > MOST_MEASURES:
        shown = measures[:MOST_MEASURES]
        row("other measures", lambda s: f"{len({*s.measures}.difference(shown)):,}")
    made.add_section()
    row("tick, median", lambda s: cell(s.tick_median_ns, short_time))
    row("tick, p95", lambda s: cell(s.tick_p95_ns, short_time))
    for name in _union(summary.phases for summary in summaries):
        row(f"  {name}", partial(_share, name=name))
    row("recording", _recording)
    made.add_section()
    for unit in _union(summary.counts for summary in summaries):
        row(unit, partial(_count, unit=unit))
        row(f"{unit}/s", partial(_rate, unit=unit))
    row("samples to look at", lambda s: f"{s.samples:,}" if s.samples else "")
    row("peak memory", _memory)
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
    return f"{of_planned(summary.ticks, summary.planned)}{attempts}"


def _measure(summary: Summary, name: str) -> str:
    found = summary.measures.get(name)
    if found is None:
        return ""
    best = "" if found.best is None else f" (best {short_number(found.best)} at {found.tick:,})"
    if name.startswith("test_") and found.best == found.last:
        best = ""  # a test set is read once, at the end
    return f"{short_number(found.last)}{best}"


def _count(summary: Summary, unit: str) -> str:
    return f"{summary.counts[unit]:,.0f}" if summary.counts.get(unit) else ""


def _rate(summary: Summary, unit: str) -> str:
    return f"{summary.per_second[unit]:,.0f}" if summary.per_second.get(unit) else ""


def _straggler(summary: Summary) -> str:
    if summary.straggler is None:
        return ""
    late = summary.straggler
    return f"rank {late.rank}, {short_time(late.late_ns)} after the others"


def _share(summary: Summary, name: str) -> str:
    return cell(summary.phases.get(name), percent)


def _recording(summary: Summary) -> str:
    """What recording takes of the median tick, and its share, which is large if ticks are short."""
    if not summary.clock_ns or not summary.tick_median_ns:
        return ""
    share = summary.clock_ns / summary.tick_median_ns
    return f"{short_time(summary.clock_ns)} a tick, {percent(share)}"


def _memory(summary: Summary) -> str:
    forecast = summary.forecast_memory_bytes
    beside = f", forecast {size(forecast)}" if forecast else ""
    return cell(summary.peak_memory_bytes, size) + beside


def _text(value: str) -> Text:
    return Text(printable(value))
