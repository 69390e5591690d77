"""`metronorm compare`: one run against another, with what the noise leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import tyro
from rich.table import Table
from rich.text import Text

from metronorm.cli.arguments import parse
from metronorm.cli.console import Console
from metronorm.cli.reading import damage_explained
from metronorm.runs import open_run
from metronorm.runs.comparing import Comparison, Measure, compare
from metronorm.text import parse_percent, printable, short_number, short_time, size

if TYPE_CHECKING:
    from collections.abc import Callable

_MEASURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "tick_median_ns": ("tick, median", short_time),
    "tick_mean_ns": ("tick, mean", short_time),
    "tokens_per_second": ("tokens/s", "{:,.0f}".format),
    "peak_memory_bytes": ("peak memory", size),
    "gpu_memory_bytes": ("peak memory of a GPU", size),
    "tick_processor_ns": ("CPU time per tick", short_time),
}

DESCRIPTION = """
    metronorm compare runs/a runs/b
    metronorm compare runs/a runs/b --metric validation_loss --skip 100
    metronorm compare runs/main runs/change --fail-if-slower 5%

It compares time, throughput, memory and loss. Ratios are B divided by A, with 95 % intervals."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm compare`."""

    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Directory of the first run, the baseline."""
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Directory of the second run."""
    metric: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the metric to compare. None: loss, if both runs have it."""
    skip: Annotated[int | None, tyro.conf.arg(metavar="TICKS")] = None
    """Number of ticks to leave out at the beginning of every attempt, as warm-up. None: 20, or a
    tenth of the shorter run if that is less."""
    fail_if_slower: Annotated[str | None, tyro.conf.arg(metavar="PERCENT")] = None
    """Exit with 1 if B's median tick is slower than A's by more than this, and the whole interval
    of the ratio says so: 5% or 0.05. None: exit with 0."""
    json: bool = False
    """Print the whole comparison as JSON."""


def main(argv: list[str]) -> int:
    """Print the comparison; 1 if B is too slow."""
    arguments = parse(Arguments, argv, command="compare", description=DESCRIPTION)
    limit = arguments.fail_if_slower
    with damage_explained(arguments.a), damage_explained(arguments.b):
        comparison = compare(
            open_run(arguments.a),
            open_run(arguments.b),
            metric=arguments.metric,
            skip=arguments.skip,
            limit=None if limit is None else parse_percent(limit),
        )
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(comparison)).decode())
    else:
        console = Console()
        console.print(table(comparison))
        console.print(*words(comparison), sep="\n", soft_wrap=True)
    return 1 if comparison.verdict is not None and comparison.verdict.failed else 0


def table(comparison: Comparison) -> Table:
    """Figures of A and B, their ratios with intervals; then the losses."""
    measures, sides = comparison.measures, (comparison.a, comparison.b)
    made = Table(show_edge=False, pad_edge=False, header_style="bold")
    made.add_column("")
    for letter, side in zip("AB", sides, strict=True):
        made.add_column(Text(f"{letter}: {printable(side.name)}"), justify="right")
    made.add_column("B / A", justify="right")
    made.add_column("95% interval", justify="right")

    def row(name: str, measure: Measure, shown: Callable[[float], str]) -> None:
        ends = ""
        if measure.low is not None and measure.high is not None:
            ends = f"{measure.low:.3f} to {measure.high:.3f}"
        style = "bold" if measure.differs else None
        cells = (shown(measure.a), shown(measure.b), f"{measure.ratio:.3f}", ends)
        made.add_row(Text(printable(name)), *cells, style=style)

    made.add_row("ticks without warm-up", *(f"{side.ticks:,}" for side in sides), "", "")
    made.add_section()
    for name, (title, shown) in _MEASURES.items():
        if name in measures:
            row(title, measures[name], shown)
        if name == "tick_mean_ns":
            for phase, measure in comparison.phases.items():
                row(f"  {phase}", measure, short_time)
    made.add_section()
    for losses in comparison.losses:
        at = f"{losses.at:,.3g}" if losses.at < 100 else f"{losses.at:,.0f}"
        after = Text(printable(f"{comparison.metric} after {at} {losses.axis}"))
        cells = ["-" if loss is None else short_number(loss) for loss in (losses.a, losses.b)]
        made.add_row(after, *cells, "", "")
    return made


def words(comparison: Comparison) -> list[Text]:
    """The statements, the notes and the verdict."""
    found = [Text(""), *(Text(printable(statement)) for statement in comparison.statements)]
    found += [Text(printable(note), style="yellow") for note in comparison.notes]
    if comparison.verdict is not None:
        style = "bold red" if comparison.verdict.failed else "green"
        found.append(Text(comparison.verdict.words, style=style))
    return found
