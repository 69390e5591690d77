"""Many runs in a table that fits the terminal: a line for each run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from metronorm.cli.console import cell
from metronorm.files import shown_path
from metronorm.runs.directions import is_loss
from metronorm.text import flat, hours_minutes, printable, short_number, short_time, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.runs.summary import Summary

LONGEST = 16  # characters of a state and of an option of the config
LABEL = 24  # characters that the run's name has at least, before options use the space
GAP = 2


def lines(summaries: Sequence[Summary], width: int) -> Table:
    """A table with one line per run: name, state, progress, measures, and differing options.

    Args:
        summaries: the runs.
        width: characters of the terminal. Options that do not fit are counted in a last line.
    """
    loss = _loss_of(summaries)
    columns = {
        "state": [summary.state for summary in summaries],
        "ticks": [f"{summary.ticks:,}" for summary in summaries],
        "time": [hours_minutes(summary.seconds) for summary in summaries],
        loss: [_last(summary, loss) for summary in summaries],
        **_best(summaries),
        "tick": [cell(summary.tick_median_ns, short_time) for summary in summaries],
    }
    labels = _labels(summaries)
    columns = {name: _cells(cells) for name, cells in columns.items() if any(cells)}
    longest = max(map(cell_len, labels))
    room = width - sum(_width(name, cells) for name, cells in columns.items())
    left_out = 0
    for name, values in differing(summaries).items():
        title = shortened(printable(name), LONGEST)
        cells = _cells(values)
        if title not in columns and room - _width(title, cells) >= min(longest, LABEL):
            columns[title] = cells
            room -= _width(title, cells)
        else:
            left_out += 1
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    made.add_column("run", no_wrap=True)
    for name in columns:
        made.add_column(Text(name), justify="left" if name == "state" else "right", no_wrap=True)
    for label, *cells in zip(labels, *columns.values(), strict=True):
        made.add_row(Text(shortened(label, max(room, 8)), "bold"), *map(Text, cells))
    if left_out:
        others = "option of the config differs" if left_out == 1 else "options of the config differ"
        made.caption = Text(
            f"{left_out:,} more {others}: show two or three runs to see all of them", "dim"
        )
        made.caption_justify = "left"
    return made


def differing(summaries: Sequence[Summary]) -> dict[str, list[str]]:
    """The options of the config that differ, and for each its value in every run."""
    configs = [flat(summary.config) for summary in summaries]
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: [_plain(config.get(name)) for config in configs] for name in names}
    return {name: texts for name, texts in values.items() if len(set(texts)) > 1}


def directory(summary: Summary) -> str:
    """The directory of a run, relative to the current directory if it is below it."""
    return shown_path(Path(summary.directory))


def _labels(summaries: Sequence[Summary]) -> list[str]:
    names = [summary.name for summary in summaries]
    if len(set(names)) < len(names):
        names = [directory(summary) for summary in summaries]
    return [printable(name) for name in names]


def _loss_of(summaries: Sequence[Summary]) -> str:
    """The loss that most runs have; `loss` is preferred to others."""
    counts = Counter(name for each in summaries for name in each.measures if is_loss(name))
    return max(counts, key=lambda name: (counts[name], name == "loss"), default="loss")


def _last(summary: Summary, name: str) -> str:
    found = summary.measures.get(name)
    return "" if found is None else short_number(found.last)


def _best(summaries: Sequence[Summary]) -> dict[str, list[str]]:
    """The column of what decides the best checkpoint, if it is the same in all trainings."""
    bests = [summary.config.get("best") for summary in summaries]
    names = {name for name in bests if isinstance(name, str)}
    if len(names) != 1:
        return {}
    (name,) = names
    found = [summary.measures.get(f"validation_{name}") for summary in summaries]
    return {f"best {name}": ["" if one is None else cell(one.best, short_number) for one in found]}


def _cells(values: Sequence[str]) -> list[str]:
    return [shortened(printable(value), LONGEST) or "-" for value in values]


def _width(title: str, cells: Sequence[str]) -> int:
    return GAP + max(map(cell_len, (title, *cells)))


def _plain(value: object) -> str:
    return "-" if value is None else str(value)
