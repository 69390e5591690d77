"""The table of figures before and after."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from metronorm.cli.console import Console
from metronorm.text import short_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.finetune.evaluating import Figure


def print_figures(figures: Sequence[Figure]) -> None:
    """Print figures, a line each; of one model alone its value."""
    if not figures:
        return
    both = not math.isnan(figures[0].found.before)
    columns = ("before", "after", "change (95 % interval)") if both else ("",)
    table = Table("", *columns, box=None, pad_edge=False)
    for figure in figures:
        before, after, low, high = map(short_number, figure.found)
        table.add_row(figure.name, *((before, after, f"{low} to {high}") if both else (after,)))
    Console().print(table)
